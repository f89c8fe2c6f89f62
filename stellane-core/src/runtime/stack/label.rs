use std::any::Any;

/// Tells the metrics which route our own router took: it says so on its body. Other routers say it by a layer of
/// their own, such as `RouteLabelLayer::axum`.
#[inline]
pub(super) fn tell<B: 'static>(body: &B) {
    if let Some(body) = (body as &dyn Any).downcast_ref::<stellane_router::Body>()
        && let Some(route) = body.route()
    {
        stellane_metrics::label_route(route.template());
    }
}
