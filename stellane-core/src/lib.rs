//! Connection manager, engines, configuration and the full-stack preset of Stellane.
