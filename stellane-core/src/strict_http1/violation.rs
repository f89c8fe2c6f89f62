use std::fmt;

use http::StatusCode;

macro_rules! violations {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)+) => {
        /// What is wrong with a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Violation {
            $($(#[$doc])* $name,)+
        }

        impl Violation {
            /// Every violation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name used in logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The status of the answer.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)+
                }
            }
        }
    };
}

violations! {
    /// HTTP/1.1 without a `Host`.
    HostMissing = "host_missing", BAD_REQUEST;
    /// More than one `Host`.
    HostRepeated = "host_repeated", BAD_REQUEST;
    /// A `Host` that is not `host[:port]`.
    HostInvalid = "host_invalid", BAD_REQUEST;
    /// The target names another authority than `Host`, or carries user information.
    HostContradicted = "host_contradicted", BAD_REQUEST;
    /// `Content-Length` and `Transfer-Encoding` in one request.
    LengthAndEncoding = "length_and_encoding", BAD_REQUEST;
    /// A `Transfer-Encoding` that is not the one word `chunked`.
    EncodingUnknown = "encoding_unknown", BAD_REQUEST;
    /// The target is too long.
    TargetTooLong = "target_too_long", URI_TOO_LONG;
    /// Too many header lines.
    TooManyHeaders = "too_many_headers", REQUEST_HEADER_FIELDS_TOO_LARGE;
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
