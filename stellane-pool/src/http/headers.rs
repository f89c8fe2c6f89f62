use http::{Extensions, HeaderMap, Response, StatusCode, request};

use crate::{Budget, DropReason, Fate, Pool, PoolConfig, Recycle, RecycleCx};

/// Maps that grew past this many headers are dropped: clearing one costs a pass over its whole index.
const MAX_HEADERS: usize = 128;

/// What one more header takes in a map: its entry, with hash and links, and its share of the index.
const ENTRY: usize = size_of::<http::HeaderName>() + size_of::<http::HeaderValue>() + 40;

/// What the table of extensions takes, roughly: the map does not tell its capacity.
const EXTENSIONS: usize = 256;

impl<V: Send + 'static> Recycle for HeaderMap<V> {
    fn recycle(&mut self, cx: &RecycleCx) -> Fate {
        if self.capacity() > MAX_HEADERS {
            return Fate::Drop(DropReason::TooLarge);
        }
        self.clear();
        cx.fate_of(self.retained_bytes())
    }

    fn retained_bytes(&self) -> usize {
        self.capacity() * ENTRY
    }
}

impl Recycle for Extensions {
    fn recycle(&mut self, _: &RecycleCx) -> Fate {
        self.clear();
        Fate::Keep
    }

    fn retained_bytes(&self) -> usize {
        EXTENSIONS
    }
}

/// A response whose header map is the spent request's, emptied: see the [module](crate::http#the-round-trip-of-the-header-map).
///
/// The request's headers are gone afterwards, so read them first. A map that grew out of proportion is
/// left behind. The version is the request's.
pub fn reply(parts: &mut request::Parts, status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = parts.version;
    if parts.headers.capacity() <= MAX_HEADERS {
        parts.headers.clear();
        *response.headers_mut() = std::mem::take(&mut parts.headers);
    }
    response
}

/// A pool of per-request maps.
pub(crate) fn pool<T: Recycle>(make: fn() -> T, config: &PoolConfig, budget: &Budget) -> Pool<T> {
    Pool::builder(make)
        .budget(budget)
        .max_idle(if config.enabled {
            config.request_pool_size
        } else {
            0
        })
        .retain_percent(config.retain_percent)
        .finish()
}
