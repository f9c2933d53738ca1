//! Loopback ports that no other test takes, in this run or another one on the machine.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below the range from which the kernel takes the ports of outgoing connections.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port that stays ours, also while its server is stopped, until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract socket named after the port: the kernel forgets it with its process, so no lock is ever left behind.
    _claim: UnixListener,
}

impl Port {
    /// Takes a free port.
    pub fn free() -> Self {
        let mut seed = [0; 2];
        getrandom::fill(&mut seed).unwrap();
        let start = u16::from_le_bytes(seed) % COUNT;
        (0..COUNT)
            .map(|i| FIRST + (start + i) % COUNT)
            .find_map(Self::claim)
            .unwrap_or_else(|| panic!("no free port from {FIRST} to {}", FIRST + COUNT))
    }

    fn claim(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("drover-test-port-{number}")).unwrap();
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: claim })
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
