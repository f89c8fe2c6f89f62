use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    MemoryBudget, MemoryBudgetFuture, MemoryKey, MemoryRequestBody, future::RefusalForm,
    policy::Owner, upload::Upload,
};
use crate::BoxError;

/// A service behind a [`MemoryBudgetLayer`](super::MemoryBudgetLayer).
#[derive(Debug, Clone)]
pub struct MemoryBudgetService<S> {
    pub(super) inner: S,
    pub(super) budget: MemoryBudget,
}

impl<S, B, RB> Service<Request<B>> for MemoryBudgetService<S>
where
    S: Service<Request<MemoryRequestBody<B>>, Response = Response<RB>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<super::MemoryBody<RB>>;
    type Error = S::Error;
    type Future = MemoryBudgetFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let named = |MemoryKey(key): &MemoryKey| Owner::Named(*key);
        let owner = || request.extensions().get().map(named);
        let upload = Upload::begin(&self.budget, owner, request.body());
        let form = upload.as_ref().map(|_| RefusalForm::of(&request));
        let request = request.map(|body| MemoryRequestBody::new(body, upload.as_ref()));
        let budget = Some(&self.budget).filter(|budget| budget.bytes() > 0);
        MemoryBudgetFuture::new(self.inner.call(request), upload, form, budget.cloned())
    }
}
