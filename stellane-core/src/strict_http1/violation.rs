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
    /// HTTP/1.1 without a `Host`, whose target names none either.
    HostMissing = "host_missing", BAD_REQUEST;
    /// More than one `Host`.
    HostRepeated = "host_repeated", BAD_REQUEST;
    /// A `Host` that is not `host[:port]`.
    HostInvalid = "host_invalid", BAD_REQUEST;
    /// The target names another authority than `Host`, or carries user information.
    HostContradicted = "host_contradicted", BAD_REQUEST;
    /// `Content-Length` and `Transfer-Encoding` in one request.
    LengthAndEncoding = "length_and_encoding", BAD_REQUEST;
    /// A `Transfer-Encoding` that names another coding than `chunked`.
    EncodingUnknown = "encoding_unknown", NOT_IMPLEMENTED;
    /// The target is too long.
    TargetTooLong = "target_too_long", URI_TOO_LONG;
    /// Too many header lines.
    TooManyHeaders = "too_many_headers", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// A `Transfer-Encoding` that does not say where the body ends: `chunked` twice, or not the last.
    EncodingInvalid = "encoding_invalid", BAD_REQUEST;
    /// A form of target that is for another method: `*` is for `OPTIONS`, and an authority for `CONNECT`, which needs its
    /// port.
    TargetForm = "target_form", BAD_REQUEST;
    /// A byte above 0x7f in the target, where the settings do not allow that.
    TargetNotAscii = "target_not_ascii", BAD_REQUEST;
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
