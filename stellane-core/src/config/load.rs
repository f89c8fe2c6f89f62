//! From the sources to a configuration that is valid.

#[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
use super::source::Source;
use super::{ConfigErrors, Loader, Origin, Problem, Profile, RuntimeConfig, loader::origin_of};

impl Loader {
    /// Reads, merges and validates.
    ///
    /// # Errors
    /// Every mistake in every source, each with its place.
    pub fn load(&self) -> Result<RuntimeConfig, ConfigErrors> {
        self.load_after(|_| ())
    }

    /// The same over a profile that is changed first.
    pub(crate) fn load_after(
        &self,
        change: impl FnOnce(&mut RuntimeConfig),
    ) -> Result<RuntimeConfig, ConfigErrors> {
        let mut problems = Vec::new();
        let profile = self
            .variable("STELLANE_ENV")
            .unwrap_or_default()
            .parse::<Profile>();
        let profile = profile.unwrap_or_else(|message| {
            problems.push(Problem::new(
                Origin::Env("STELLANE_ENV".into()),
                "",
                message,
            ));
            Profile::Default
        });
        self.load_with(RuntimeConfig::profile(profile).with(change), problems)
    }

    /// The same over other defaults than those of a profile.
    #[cfg(feature = "reload")]
    pub(crate) fn load_over(&self, base: RuntimeConfig) -> Result<RuntimeConfig, ConfigErrors> {
        self.load_with(base, Vec::new())
    }

    fn load_with(
        &self,
        base: RuntimeConfig,
        mut problems: Vec<Problem>,
    ) -> Result<RuntimeConfig, ConfigErrors> {
        let text = self.file_text(&mut problems);
        let (config, origins) = self.merge(base.clone(), &text, &mut problems);

        let mut invalid = config.problems();
        for problem in &mut invalid {
            if let Some(origin) = origin_of(problem, &origins) {
                problem.origin = origin.clone();
            }
        }
        problems.append(&mut invalid);
        ConfigErrors::check(problems)?;
        #[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
        let config = {
            let mut config = config;
            config.source = Source::new(self.clone(), text, base, &config, origins);
            config
        };
        Ok(config)
    }
}
