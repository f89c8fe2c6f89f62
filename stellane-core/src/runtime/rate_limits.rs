//! Rates by key, by the section `[rate_limit]`.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;
use stellane_autotune::{Key, RateLimit, RateLimitLayer, RateLimitStats, RequestHead};

use super::{RuntimeError, classes::RulesBuilder};
use crate::{config, connection::ConnectInfo};

/// The rates of the configuration, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct RateLimits {
    layer: Option<RateLimitLayer>,
    limits: Arc<[(String, RateLimit)]>,
}

impl RateLimits {
    pub(super) fn new(
        sections: &BTreeMap<String, config::RateLimits>,
    ) -> Result<Self, RuntimeError> {
        let (mut layer, mut limits) = (None, Vec::new());
        for (name, section) in sections {
            let failed = |source| RuntimeError::Component {
                name: "rate_limit",
                source,
            };
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
        })
    }

    /// Around the service, if there are any.
    pub(super) fn layer(&self) -> Option<&RateLimitLayer> {
        self.layer.as_ref()
    }

    pub(super) fn stats(&self) -> Vec<(&str, RateLimitStats)> {
        let limits = self.limits.iter();
        limits
            .map(|(name, limit)| (&**name, limit.stats()))
            .collect()
    }
}

/// Whose a request is, if it is one of those that the section speaks of.
fn key_of(
    section: &config::RateLimits,
) -> Result<impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static, crate::BoxError> {
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
