//! A connection beside the load: asks the server what it is and what it counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use tenure_client::machine::Delivery;
use tenure_protocol::{Info, Request, Response, TURN_CAUSES, tag, text_tag};

use crate::limits::SILENCE_MAX;
use crate::link::{Introduction, Link};
use crate::report::StallRow;

/// Asks now and then; a server closes connections that are silent for long, so it connects again when it must.
pub(crate) struct Control {
    link: Link,
    address: SocketAddr,
    introduction: Introduction,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Name and version.
    pub server: String,
    /// Network driver in use.
    pub driver: String,
    /// Durability in the words of its configuration.
    pub durability: String,
    /// Shards.
    pub shards: u64,
    /// Live leases.
    #[serde(skip)]
    pub leases: u64,
    /// Leases expired since it started.
    #[serde(skip)]
    pub expired: u64,
    /// Largest lateness of an expiry since it started, on its own clock, ms.
    #[serde(skip)]
    pub lateness_ms_max: Option<u64>,
    /// How long its recovery took, ms.
    #[serde(skip)]
    pub recovery_ms: Option<u64>,
    /// CPU time that it has used, where it says so.
    #[serde(skip)]
    pub cpu: Option<Duration>,
    /// The longest turns of its cores since it started.
    #[serde(skip)]
    pub stalls: Vec<StallRow>,
}

impl Control {
    pub(crate) fn connect(address: SocketAddr, introduction: &Introduction) -> anyhow::Result<Control> {
        let link = Link::connect(address, introduction)?;
        Ok(Control { link, address, introduction: introduction.clone() })
    }

    pub(crate) fn shard_count(&self) -> anyhow::Result<u16> {
        let terms = self.link.machine.terms();
        if terms.id_rule != tenure_protocol::ID_RULE && terms.shard_count > 1 {
            bail!("the server maps IDs to shards by rule {}, which this client does not know", terms.id_rule);
        }
        Ok(terms.shard_count)
    }

    /// Asks.
    ///
    /// # Errors
    /// When the server refuses or does not answer, also on a new connection.
    pub(crate) fn info(&mut self) -> anyhow::Result<ServerInfo> {
        self.ask().or_else(|_| {
            self.link = Link::connect(self.address, &self.introduction)?;
            self.ask()
        })
    }

    fn ask(&mut self) -> anyhow::Result<ServerInfo> {
        self.link.machine.send(&Request::Info, 0)?;
        self.link.blocking(SILENCE_MAX, |delivery| match delivery {
            Delivery::Reply { response: Response::Info(info), .. } => Some(Ok(read(info))),
            Delivery::Reply { response: Response::Refused(refused), .. } => {
                Some(Err(anyhow::anyhow!("the server refuses Info: {}", refused.refusal)))
            }
            _ => None,
        })?
    }
}

fn read(info: &Info<'_>) -> ServerInfo {
    let text = |tag| info.text(tag).unwrap_or("unknown").to_owned();
    let number = |tag| info.number(tag).unwrap_or(0);
    ServerInfo {
        server: text(text_tag::SERVER),
        driver: text(text_tag::DRIVER),
        durability: text(text_tag::DURABILITY),
        shards: number(tag::SHARDS),
        leases: number(tag::LEASES),
        expired: number(tag::EXPIRED),
        lateness_ms_max: info.number(tag::LATENESS_MS_MAX),
        recovery_ms: info.number(tag::RECOVERY_MS),
        cpu: info.number(tag::CPU_US).map(Duration::from_micros),
        stalls: stalls(info),
    }
}

/// Of all cores, the longest.
fn stalls(info: &Info<'_>) -> Vec<StallRow> {
    let longest = |tag| info.numbers().filter(|number| number.tag == tag).map(|number| number.value).max();
    let known = TURN_CAUSES.iter().filter_map(|cause| {
        let (wall_us, cpu_us) = longest(cause.wall).zip(longest(cause.cpu))?;
        Some(StallRow { cause: cause.name.to_owned(), wall_us, cpu_us })
    });
    known.collect()
}
