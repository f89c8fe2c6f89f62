use std::{borrow::Cow, fmt::Write};

use http::HeaderValue;

/// What a replica tells about its load: the message `xds.data.orca.v3.OrcaLoadReport`. What is `None` is not told.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LoadReport {
    /// How full the service is: 1 is full, more is too much.
    pub application_utilization: Option<f64>,
    /// CPU in terms of what there is.
    pub cpu_utilization: Option<f64>,
    /// Memory in terms of what there is.
    pub mem_utilization: Option<f64>,
    /// Requests per second.
    pub rps_fractional: Option<f64>,
    /// Those of them that failed.
    pub eps: Option<f64>,
    /// Numbers of the service's own.
    pub named_metrics: Vec<(Cow<'static, str>, f64)>,
}

impl LoadReport {
    /// Each number that is one, with its name and its field in the message.
    fn fields(&self) -> impl Iterator<Item = (&'static str, u8, f64)> {
        let fields = [
            ("cpu_utilization", 1, self.cpu_utilization),
            ("mem_utilization", 2, self.mem_utilization),
            ("rps_fractional", 6, self.rps_fractional),
            ("eps", 7, self.eps),
            ("application_utilization", 9, self.application_utilization),
        ];
        let told = |(name, field, value): (_, _, Option<f64>)| Some((name, field, value?));
        fields
            .into_iter()
            .filter_map(told)
            .filter(|(_, _, value)| is_told(*value))
    }

    fn named(&self) -> impl Iterator<Item = &(Cow<'static, str>, f64)> {
        self.named_metrics
            .iter()
            .filter(|(_, value)| is_told(*value))
    }

    /// As Envoy reads it: one wrong number makes the whole report invalid there, so none is written.
    pub(super) fn text(&self) -> Option<HeaderValue> {
        let mut text = String::from("TEXT");
        let mut separator = ' ';
        let own = self
            .named()
            .map(|(name, value)| ("named_metrics.", &**name, *value));
        for (prefix, name, value) in self
            .fields()
            .map(|(name, _, value)| ("", name, value))
            .chain(own)
        {
            let _ = write!(text, "{separator}{prefix}{name}:{value}");
            separator = ',';
        }
        (separator == ',')
            .then(|| HeaderValue::try_from(text).ok())
            .flatten()
    }

    /// As gRPC reads it in trailers: the message in base64, without padding.
    pub(super) fn binary(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(base64(&self.message())).ok()
    }

    /// The message.
    pub(super) fn message(&self) -> Vec<u8> {
        const I64: u8 = 1;
        const BYTES: u8 = 2;
        let mut message = Vec::with_capacity(64);
        for (_, field, value) in self.fields() {
            message.push(field << 3 | I64);
            message.extend(value.to_le_bytes());
        }
        for (name, value) in self.named() {
            let mut entry = vec![1 << 3 | BYTES];
            varint(name.len(), &mut entry);
            entry.extend(name.as_bytes());
            entry.push(2 << 3 | I64);
            entry.extend(value.to_le_bytes());
            message.push(8 << 3 | BYTES);
            varint(entry.len(), &mut message);
            message.extend(entry);
        }
        message
    }
}

/// No less than nothing, and no infinity.
fn is_told(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn varint(mut number: usize, to: &mut Vec<u8>) {
    while number > 0x7f {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |i: usize| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
        text.extend((0..=chunk.len()).map(digit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_as_envoy_and_as_grpc_read_it() {
        let report = LoadReport {
            application_utilization: Some(0.75),
            cpu_utilization: Some(0.5),
            mem_utilization: Some(f64::NAN),
            rps_fractional: Some(100.25),
            eps: Some(-1.0),
            named_metrics: vec![("queue".into(), 3.0), ("wrong".into(), f64::INFINITY)],
        };
        let text = "TEXT cpu_utilization:0.5,rps_fractional:100.25,application_utilization:0.75,named_metrics.queue:3";
        assert_eq!(report.text().unwrap(), text);
        // The generated code of gRPC's Python reads these numbers from it.
        let binary = "CQAAAAAAAOA/MQAAAAAAEFlASQAAAAAAAOg/QhAKBXF1ZXVlEQAAAAAAAAhA";
        assert_eq!(report.binary().unwrap(), binary);
    }

    #[test]
    fn a_report_of_nothing_is_none_in_text() {
        assert_eq!(LoadReport::default().text(), None);
    }

    #[test]
    fn a_long_name_has_its_length_in_two_bytes() {
        let report = LoadReport {
            named_metrics: vec![("n".repeat(200).into(), 1.0)],
            ..LoadReport::default()
        };
        let mut message = vec![0x42, 0xd4, 0x01, 0x0a, 0xc8, 0x01];
        message.extend([b'n'; 200]);
        message.push(0x11);
        message.extend(1_f64.to_le_bytes());
        assert_eq!(report.binary().unwrap(), base64(&message));
    }
}
