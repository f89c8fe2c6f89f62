//! The settings: defaults, bounds and their serialised form.

use stellane_pool::{Pool, PoolConfig, Pools};

#[test]
fn every_value_out_of_range_is_reported() {
    let mut config = PoolConfig::default();
    assert_eq!(config.validate(), Ok(()));
    config.retain_percent = 20_000;
    config.max_buffer_bytes = 2 << 20;
    let errors = config.validate().expect_err("two values are out of range");
    let keys: Vec<_> = errors.iter().map(|error| error.key).collect();
    assert_eq!(keys, ["max_buffer_bytes", "retain_percent"]);
    assert_eq!(
        errors[1].to_string(),
        "`retain_percent` = 20000: expected 0 to 10000"
    );
    let error = Pools::builder()
        .config(config)
        .build()
        .expect_err("does not build");
    assert_eq!(error.errors(), errors);
    assert!(Pool::builder(Vec::<u8>::new).magazines(0).build().is_err());
}

#[cfg(feature = "serde")]
#[test]
fn the_configuration_survives_a_round_trip_and_refuses_unknown_keys() {
    let config = PoolConfig::default();
    let text = toml::to_string(&config).expect("serialises");
    assert!(
        text.contains("retain_percent = 100") && text.contains("trim_interval = \"10s\""),
        "{text}"
    );
    assert_eq!(toml::from_str::<PoolConfig>(&text).expect("parses"), config);
    let partial: PoolConfig = toml::from_str("request_pool_size = 7").expect("parses");
    assert_eq!(
        (partial.request_pool_size, partial.response_pool_size),
        (7, 1000)
    );
    assert!(toml::from_str::<PoolConfig>("reqest_pool_size = 7").is_err());
}
