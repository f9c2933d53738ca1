//! The operator's roles as processes of their own, as a user runs them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::cluster::Cluster;
use super::ports::Port;
use super::process::Process;

const START: Duration = Duration::from_secs(60);
const HTTP: Duration = Duration::from_secs(10);

/// A role that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Role {
    /// The process.
    pub process: Process,
    name: String,
    args: Vec<String>,
    log: PathBuf,
    port: Port,
}

/// Starts `drover manager`; `extra` are further flags. Returns when it serves `/healthz`.
pub fn manager(cluster: &Cluster, name: &str, extra: &[&str]) -> Role {
    Role::start(cluster, name, "manager", extra)
}

/// Starts `drover agent` for `node` with its pool in `pool` and its devices in `devices`. Returns when it serves `/healthz`.
pub fn agent(cluster: &Cluster, node: &str, pool: &Path, devices: &Path, extra: &[&str]) -> Role {
    let [pool, devices] = [pool, devices].map(|path| path.to_str().expect("test folders have UTF-8 names"));
    let own = ["--node-name", node, "--pool", pool, "--device-dir", devices];
    Role::start(cluster, &format!("agent-{node}"), "agent", &[&own, extra].concat())
}

impl Role {
    fn start(cluster: &Cluster, name: &str, role: &str, extra: &[&str]) -> Self {
        let port = Port::free();
        let kubeconfig = cluster.kubeconfig();
        let kubeconfig = kubeconfig.to_str().expect("test folders have UTF-8 names");
        let address = port.address();
        let own = [role, "--kubeconfig", kubeconfig, "--namespace", cluster.namespace(), "--metrics-addr", &address];
        let args: Vec<_> = own.iter().chain(extra).map(|arg| (*arg).to_owned()).collect();
        let log = cluster.folder().join(format!("{}-{name}.log", cluster.namespace()));
        let mut role = Self { process: spawn(name, &args, &log), name: name.to_owned(), args, log, port };
        role.wait_ready();
        role
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills it, if it still runs, and starts it again with the same flags.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.name, &self.args, &self.log);
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let address = self.port.address();
        self.process.wait_ready(START, || http_get(&address, "/healthz"));
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        http_get(&self.port.address(), "/metrics").unwrap()
    }

    /// The value of the one sample whose line begins with `name`, labels included; `None` when there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

fn spawn(name: &str, args: &[String], log: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command
        .args(args)
        .env("RUST_LOG", std::env::var("DROVER_TEST_LOG").as_deref().unwrap_or("info,drover=debug"))
        .env_remove("POD_NAMESPACE");
    Process::spawn(name, &mut command, log)
}

/// GET: the body of a 200.
fn http_get(address: &str, path: &str) -> Result<String, String> {
    let text = |e: std::io::Error| format!("GET {path}: {e}");
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_read_timeout(Some(HTTP)).map_err(text)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(format!("GET {path}: {answer}")),
    }
}
