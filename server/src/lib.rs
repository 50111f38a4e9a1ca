//! The Tenure lease server, as a library: for tests, benchmarks and the `tenure` command.
//!
//! ```no_run
//! use tenure_server::{ServeConfig, Server};
//!
//! let config = ServeConfig { listen: vec!["127.0.0.1:0".to_owned()], ..ServeConfig::default() };
//! let running = Server::start(config)?;
//! println!("listening on {}", running.addresses()[0]);
//! running.stop();
//! # Ok::<(), tenure_server::StartError>(())
//! ```

pub mod cli;
pub mod duration;
pub mod exit;
pub mod serve;

pub use serve::config::ServeConfig;
pub use serve::start::{Running, Server, StartError};
