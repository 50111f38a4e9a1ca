//! `tenure serve`: the network front on the engine's cores.
//!
//! ```text
//!  sockets ── driver (ring or glommio) ── Front ── Session ── tenure::Station (the core's shard)
//! ```
//! **Boundary:** only the drivers know sockets; only the session knows the protocol; only the station
//! knows leases. A session is a plain state machine, so both drivers run the same one, and tests can
//! run it without any socket.

pub mod config;
pub mod limits;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod start;

mod desk;
mod front;
mod glommio_driver;
mod listen;
mod ring_driver;
mod scatter;
mod session;
mod sessions;
mod shared;
mod tag;

pub(crate) mod signal;

/// Durability in the words of the configuration.
pub(crate) fn durability_text(config: &tenure::Config) -> String {
    match (&config.data_dir, config.durability) {
        (None, _) => "in memory".to_owned(),
        (Some(_), tenure::Durability::Always) => "always".to_owned(),
        (Some(_), tenure::Durability::Interval(span)) => format!("interval:{}", span.as_millis()),
        (Some(_), tenure::Durability::None) => "none".to_owned(),
    }
}

/// A driver in the words of the configuration.
pub(crate) fn driver_text(driver: tenure::Driver) -> &'static str {
    match driver {
        tenure::Driver::Glommio => "glommio",
        tenure::Driver::Ring | tenure::Driver::Auto => "ring",
    }
}
