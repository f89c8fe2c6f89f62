//! An authority of the moment, with certificates for servers and clients.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) serial: u64,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// For these DNS names and URIs.
    pub(crate) fn issue(&self, subject: &str, dns: &[&str], uris: &[&str]) -> Issued {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let names: Vec<_> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let serial = SERIAL.fetch_add(1, Relaxed);
        params.serial_number = Some(serial.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !subject.is_empty() {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Example, Inc.");
            name.push(DnType::CommonName, subject);
        }
        for uri in uris {
            let uri = SanType::URI((*uri).try_into().expect("a URI"));
            params.subject_alt_names.push(uri);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Issued {
            certificate,
            key: key.serialize_pem(),
            serial,
        }
    }

    /// With another kind of key than is usual.
    pub(crate) fn issue_with(
        &self,
        algorithm: &'static rcgen::SignatureAlgorithm,
        dns: &[&str],
    ) -> Issued {
        let names: Vec<_> = dns.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Issued {
            certificate,
            key: key.serialize_pem(),
            serial: 0,
        }
    }

    pub(crate) fn revoke(&self, issued: &[&Issued]) -> rcgen::CertificateRevocationList {
        let revoked = issued.iter().map(|one| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2026, 1, 2),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signs")
    }
}
