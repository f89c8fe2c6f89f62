//! Whose an address is.

use std::{net::IpAddr, num::NonZeroU64};

/// A number for who has this address: all of it for IPv4, the first half for IPv6. None for addresses of private networks
/// and of carriers, behind which there may be many: a gateway, a sidecar, a node of a cluster.
pub(crate) fn client(peer: IpAddr) -> Option<NonZeroU64> {
    let number = match peer.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let carriers = a == 100 && b & 0xC0 == 64;
            let many = address.is_private() || address.is_loopback() || address.is_link_local();
            if many || carriers {
                return None;
            }
            u32::from(address).into()
        }
        IpAddr::V6(address) => {
            let of_site = address.is_unique_local() || address.is_unicast_link_local();
            if of_site || address.is_loopback() {
                return None;
            }
            // 0 to 2^32 are no addresses of anybody's.
            (u128::from(address) >> 64) as u64
        }
    };
    NonZeroU64::new(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_an_address_is_one_client_unless_many_may_be_behind_it() {
        let of = |address: &str| client(address.parse().expect("an address"));
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("100.63.0.1", "100.128.0.1", false),
        ] {
            assert!(of(one).is_some() && of(other).is_some());
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
        for many in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.1",
            "0.0.0.0",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(of(many), None, "{many}");
        }
    }
}
