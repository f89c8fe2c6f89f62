use super::Hold;

/// Settings of one class of requests: see [`LimitConfig::classes`](super::LimitConfig::classes).
///
/// A number is a class with that [`share`](Self::share):
///
/// ```
/// use stellane_autotune::{ClassConfig, Hold, LimitConfig};
///
/// let mut config = LimitConfig::default();
/// config.classes.insert("interactive".into(), 0.3.into());
/// let mut gpu = ClassConfig::default();
/// (gpu.limit, gpu.hold) = (8, Hold::Body);
/// config.classes.insert("gpu".into(), gpu);
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(remote = "Self", default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ClassConfig {
    /// The share of the limit that is guaranteed to the class, from 0 to 1: below it, it is admitted even when the
    /// limit is reached. Unused shares are free for everyone. Default: 0. Too high and others wait for places that
    /// hardly anybody uses at once.
    pub share: f64,
    /// How many requests of the class may be in progress at a time, under the common limit: the seats of something that is behind the
    /// service, such as a GPU or a pool of connections. Default: 0, no limit of its own. Who finds no seat waits for
    /// `max_wait`, or is refused, which is never taken for an overload of the service.
    pub limit: u32,
    /// Whether `limit` is only where the limit of the class begins, and its own latency and throughput say where it
    /// stays. Default: false.
    pub adaptive: bool,
    /// How long a request of the class keeps its seat: until the head of its response with `headers`, else until the end
    /// of its body, that of an event stream too. Its place under the common limit is held as for all others. A class
    /// without a limit of its own holds its place under the common one in this way instead. Default: `work`.
    pub hold: Hold,
    /// Requests whose path matches one of these templates, in the syntax of the router, such as
    /// `"/v1/chat/completions"` or `"/files/{*path}"`; read by the preset. A request of several classes is of the one
    /// with the most specific template. Default: none.
    pub paths: Vec<String>,
    /// Only requests with one of these methods; read by the preset. Without `paths` and `grpc`, on any path. Default:
    /// any.
    pub methods: Vec<String>,
    /// Calls of these gRPC services, such as `"llm.v1.Chat"`; read by the preset. Default: none.
    pub grpc: Vec<String>,
}

impl ClassConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Default for ClassConfig {
    fn default() -> Self {
        Self {
            share: 0.0,
            limit: 0,
            adaptive: false,
            hold: Hold::default(),
            paths: Vec::new(),
            methods: Vec::new(),
            grpc: Vec::new(),
        }
    }
}

impl From<f64> for ClassConfig {
    fn from(share: f64) -> Self {
        Self {
            share,
            ..Self::default()
        }
    }
}

#[cfg(feature = "serde")]
mod de {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

    use super::ClassConfig;

    // What is derived for the fields has the names of these methods, but is none of a trait.
    impl serde::Serialize for ClassConfig {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Self::serialize(self, serializer)
        }
    }

    impl<'de> Deserialize<'de> for ClassConfig {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(ShareOrFields)
        }
    }

    struct ShareOrFields;

    impl<'de> Visitor<'de> for ShareOrFields {
        type Value = ClassConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a share from 0 to 1, or the settings of a class")
        }

        fn visit_f64<E>(self, share: f64) -> Result<ClassConfig, E> {
            Ok(share.into())
        }

        fn visit_i64<E>(self, share: i64) -> Result<ClassConfig, E> {
            Ok((share as f64).into())
        }

        fn visit_u64<E>(self, share: u64) -> Result<ClassConfig, E> {
            Ok((share as f64).into())
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClassConfig, A::Error> {
            ClassConfig::deserialize(MapAccessDeserializer::new(map))
        }
    }
}
