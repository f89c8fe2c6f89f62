//! Rates by key, by the section `[rate_limit]`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderName;
#[cfg(feature = "redis")]
use stellane_autotune::rate_limit::shared::{RateStore, SharedRateLimit, SharedRateLimitLayer};
use stellane_autotune::{Key, RateLimit, RateLimitLayer, RateLimitStats, RequestHead};

use super::{RuntimeError, classes::RulesBuilder};
use crate::{BoxError, config, connection::ConnectInfo};

/// The rates of the configuration, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct RateLimits {
    layer: Option<RateLimitLayer>,
    limits: Arc<[(String, RateLimit)]>,
    #[cfg(feature = "redis")]
    shared: Shared,
    scraped: Arc<Mutex<Scraped>>,
}

/// Those that replicas share.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Default)]
struct Shared {
    layer: Option<SharedRateLimitLayer>,
    limits: Arc<[(String, SharedRateLimit)]>,
    stores: Arc<[RateStore]>,
}

impl RateLimits {
    pub(super) fn new(
        sections: &BTreeMap<String, config::RateLimits>,
    ) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Component {
            name: "rate_limit",
            source,
        };
        let (mut layer, mut limits) = (None, Vec::new());
        for (name, section) in sections
            .iter()
            .filter(|(_, section)| section.shared.is_empty())
        {
            let limit = RateLimit::builder().config(section.limit()).build();
            let limit = limit.map_err(|error| failed(error.into()))?;
            let key = key_of(section).map_err(failed)?;
            layer = Some(match layer.take() {
                None => RateLimitLayer::new(&limit, key),
                Some(layer) => RateLimitLayer::and(layer, &limit, key),
            });
            limits.push((name.clone(), limit));
        }
        Ok(Self {
            layer,
            limits: limits.into(),
            #[cfg(feature = "redis")]
            shared: Shared::new(sections).map_err(failed)?,
            scraped: Arc::default(),
        })
    }

    /// Around the service, if there are any that are not shared.
    pub(super) fn layer(&self) -> Option<&RateLimitLayer> {
        self.layer.as_ref()
    }

    /// For a scrape.
    pub(super) fn stats(&self) -> Self {
        self.clone()
    }

    /// What each has done, by name. A look at each key of each: for the first metric of a scrape.
    pub(super) fn scrape(&self) -> Scraped {
        let limits = self.limits.iter();
        let all = limits.map(|(name, limit)| (name.clone(), limit.stats()));
        #[cfg(feature = "redis")]
        let all = all.chain(
            self.shared
                .limits
                .iter()
                .map(|(name, limit)| (name.clone(), limit.stats().local)),
        );
        let scraped: Scraped = all.collect();
        *self.scraped.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&scraped);
        scraped
    }

    /// What [`scrape`](Self::scrape) found last: for the other metrics of that scrape.
    pub(super) fn scraped(&self) -> Scraped {
        let scraped = self.scraped.lock();
        Arc::clone(&scraped.unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) type Scraped = Arc<[(String, RateLimitStats)]>;

#[cfg(feature = "redis")]
impl Shared {
    fn new(sections: &BTreeMap<String, config::RateLimits>) -> Result<Self, BoxError> {
        let mut stores: Vec<(&str, RateStore)> = Vec::new();
        let (mut layer, mut limits) = (None, Vec::new());
        for (name, section) in sections
            .iter()
            .filter(|(_, section)| !section.shared.is_empty())
        {
            let known = stores.iter().find(|(url, _)| *url == section.shared);
            let store = match known {
                Some((_, store)) => store.clone(),
                None => {
                    let store = RateStore::builder("").config(section.store()).build()?;
                    stores.push((&section.shared, store.clone()));
                    store
                }
            };
            let limit = SharedRateLimit::builder(&store, name)
                .config(section.limit())
                .without_store(section.without_store)
                .build()?;
            let key = key_of(section)?;
            layer = Some(match layer.take() {
                None => SharedRateLimitLayer::new(&limit, key),
                Some(layer) => SharedRateLimitLayer::and(layer, &limit, key),
            });
            limits.push((name.clone(), limit));
        }
        Ok(Self {
            layer,
            limits: limits.into(),
            stores: stores.into_iter().map(|(_, store)| store).collect(),
        })
    }
}

#[cfg(feature = "redis")]
impl RateLimits {
    /// Further in, if there are any that are shared.
    pub(super) fn shared_layer(&self) -> Option<&SharedRateLimitLayer> {
        self.shared.layer.as_ref()
    }

    pub(super) fn shared(&self) -> &[(String, SharedRateLimit)] {
        &self.shared.limits
    }

    pub(super) fn stores(&self) -> &[RateStore] {
        &self.shared.stores
    }
}

/// Whose a request is, if it is one of those that the section speaks of.
fn key_of(
    section: &config::RateLimits,
) -> Result<impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static, BoxError> {
    let mut rules = RulesBuilder::new();
    rules.add((), &section.paths, &section.methods, &section.grpc);
    let rules = rules.build()?;
    let all = section.paths.is_empty() && section.methods.is_empty() && section.grpc.is_empty();
    let header = section.header().map(HeaderName::try_from).transpose()?;
    Ok(move |head: RequestHead<'_>| {
        if !all {
            rules.find(head.uri.path(), head.method)?;
        }
        match &header {
            Some(header) => head.headers.get(header).map(Key::of),
            None => {
                let info = head.extensions.get::<ConnectInfo>()?;
                info.peer().map(|peer| Key::peer(peer.ip()))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_looks_at_each_key_once() {
        let section = config::RateLimits::default().with(|section| {
            section.rules = vec!["10/s".parse().expect("a rule")];
        });
        let sections = BTreeMap::from([("a".to_owned(), section)]);
        let rates = RateLimits::new(&sections).expect("valid");
        let allowed = |scraped: Scraped| scraped[0].1.allowed;
        assert_eq!(allowed(rates.scrape()), 0);
        assert!(rates.limits[0].1.check(Key::of(1), 1).is_ok());
        assert_eq!(allowed(rates.stats().scraped()), 0);
        assert_eq!(allowed(rates.stats().scrape()), 1);
        assert_eq!(allowed(rates.stats().scraped()), 1);
    }
}
