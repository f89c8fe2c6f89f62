//! The labels of a series, packed into one integer.

use http::{Method, StatusCode, Version};

/// Index of a route template in the table.
pub(crate) type RouteId = u32;

pub(crate) const METHODS: [&str; 11] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
    "_OTHER",
];
pub(crate) const HEAD: u8 = 1;
pub(crate) const POST: u8 = 2;
pub(crate) const CONNECT: u8 = 5;
const OTHER: u8 = 10;

/// The index of a method in [`METHODS`]: what a client invents is `_OTHER`.
#[inline]
pub(crate) fn method_index(method: &Method) -> u8 {
    match *method {
        Method::GET => 0,
        Method::HEAD => HEAD,
        Method::POST => POST,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => CONNECT,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ if method.as_str() == "QUERY" => 9,
        _ => OTHER,
    }
}

/// Whether no server polls the body of such an answer.
#[inline]
pub(crate) fn has_no_body(method: u8, status: StatusCode) -> bool {
    method == HEAD
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
        )
        || (method == CONNECT && status.is_success())
}

pub(crate) const VERSIONS: [&str; 5] = ["0.9", "1.0", "1.1", "2", "3"];

#[inline]
pub(crate) fn version_index(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 0,
        Version::HTTP_10 => 1,
        Version::HTTP_2 => 3,
        Version::HTTP_3 => 4,
        _ => 2,
    }
}

pub(crate) const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
pub(crate) const NO_GRPC: u8 = 31;

/// The code in a `grpc-status` header; what is not one of the 17 counts as `UNKNOWN`.
pub(crate) fn grpc_index(value: &http::HeaderValue) -> u8 {
    match value.to_str().ok().and_then(|code| code.parse::<u8>().ok()) {
        Some(code) if usize::from(code) < GRPC.len() => code,
        _ => 2,
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response was handed over.
    Complete = 0,
    /// The future or the body was dropped before its end.
    Cancelled = 1,
    /// The response body failed.
    BodyError = 2,
    /// The service failed instead of responding.
    ServiceError = 3,
    /// The service or the body panicked.
    Panic = 4,
}

/// The labels of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeriesKey {
    pub(crate) route: u32,
    pub(crate) method: u8,
    /// Zero when there was no response.
    pub(crate) status: u16,
    pub(crate) version: u8,
    pub(crate) https: bool,
    pub(crate) grpc: u8,
    pub(crate) outcome: Outcome,
}

impl SeriesKey {
    #[inline]
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.route) << 32
            | u64::from(self.method) << 24
            | u64::from(self.status) << 12
            | u64::from(self.version) << 9
            | u64::from(self.https) << 8
            | u64::from(self.grpc) << 3
            | self.outcome as u64
    }

    pub(crate) fn unpack(key: u64) -> Self {
        Self {
            route: (key >> 32) as u32,
            method: (key >> 24) as u8 & 0xf,
            status: (key >> 12) as u16 & 0xfff,
            version: (key >> 9) as u8 & 7,
            https: key >> 8 & 1 == 1,
            grpc: (key >> 3) as u8 & 31,
            outcome: match key & 7 {
                0 => Outcome::Complete,
                1 => Outcome::Cancelled,
                2 => Outcome::BodyError,
                3 => Outcome::ServiceError,
                _ => Outcome::Panic,
            },
        }
    }

    pub(crate) fn method(self) -> &'static str {
        METHODS[usize::from(self.method)]
    }

    pub(crate) fn version(self) -> &'static str {
        VERSIONS[usize::from(self.version)]
    }

    pub(crate) fn scheme(self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    pub(crate) fn grpc(self) -> Option<&'static str> {
        GRPC.get(usize::from(self.grpc)).copied()
    }

    /// Whether it counts as failed: a 5xx, an error or a panic. Who has left is counted apart.
    #[inline]
    pub(crate) fn has_failed(self) -> bool {
        match self.outcome {
            Outcome::Complete => self.status >= 500,
            outcome => outcome != Outcome::Cancelled,
        }
    }

    /// OpenTelemetry's `error.type`: absent when all went well, the status of a 5xx, else a fixed word.
    pub(crate) fn error_type(self) -> Option<std::borrow::Cow<'static, str>> {
        match self.outcome {
            Outcome::Cancelled => Some("cancelled".into()),
            Outcome::BodyError => Some("body_error".into()),
            Outcome::ServiceError => Some("service_error".into()),
            Outcome::Panic => Some("panic".into()),
            Outcome::Complete if self.status >= 500 => Some(self.status.to_string().into()),
            // The codes that OpenTelemetry counts as errors of the server.
            Outcome::Complete if matches!(self.grpc, 2 | 4 | 12 | 13 | 14 | 15) => {
                self.grpc().map(Into::into)
            }
            Outcome::Complete => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_packing() {
        for outcome in [
            Outcome::Complete,
            Outcome::Cancelled,
            Outcome::BodyError,
            Outcome::ServiceError,
            Outcome::Panic,
        ] {
            for (route, method, status, version, https, grpc) in [
                (0, 0, 0, 0, false, 0),
                (100_001, 10, 999, 4, true, NO_GRPC),
                (7, 9, 499, 2, false, 16),
            ] {
                let key = SeriesKey {
                    route,
                    method,
                    status,
                    version,
                    https,
                    grpc,
                    outcome,
                };
                assert_eq!(SeriesKey::unpack(key.pack()), key);
            }
        }
    }
}
