//! A real Kubernetes API: etcd, kube-apiserver and, when asked for, kube-controller-manager, with a PKI of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

use super::ports::Port;
use super::process::Process;
use super::scratch::Scratch;
use super::{random_hex, repository, run, script, tools, try_run};

const START: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "longhorn-system";

/// The servers of one cluster.
#[derive(Debug)]
struct Servers {
    controller_manager: Option<Process>,
    api_server: Process,
    _etcd: Process,
    _ports: [Port; 3],
    folder: Scratch,
}

/// A cluster with our kinds, seen from the namespace a test works in. The last one dropped ends the servers and removes their data.
#[derive(Clone)]
pub struct Cluster {
    servers: Arc<Servers>,
    client: kube::Client,
    namespace: String,
}

impl Cluster {
    /// Starts etcd and the API server; with `longhorn-system` and our kinds.
    pub async fn start() -> Self {
        let mut servers = Servers::start();
        servers.apply_kinds();
        Self::with_namespace(Arc::new(servers), NAMESPACE.to_owned()).await
    }

    /// The same with a controller manager: garbage collection, namespace deletion.
    pub async fn start_with_controllers() -> Self {
        let mut servers = Servers::start();
        servers.start_controller_manager();
        servers.apply_kinds();
        Self::with_namespace(Arc::new(servers), NAMESPACE.to_owned()).await
    }

    /// A namespace of the test's own in the one cluster (with controller manager) that all tests of this run share. For tests
    /// that change nothing outside of their namespace; `what` is part of its name.
    pub async fn shared(what: &str) -> Self {
        static SHARED: OnceLock<Arc<Servers>> = OnceLock::new();
        let servers = SHARED.get_or_init(|| {
            let mut servers = Servers::start();
            servers.start_controller_manager();
            servers.apply_kinds();
            Arc::new(servers)
        });
        Self::with_namespace(servers.clone(), format!("{what}-{}", random_hex(6))).await
    }

    async fn with_namespace(servers: Arc<Servers>, namespace: String) -> Self {
        run(servers.kubectl().args(["create", "namespace", &namespace]));
        let kubeconfig = Kubeconfig::read_from(servers.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        Self { servers, client, namespace }
    }

    /// The namespace the operator and the test work in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A client with all rights.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.servers.kubeconfig()
    }

    /// A folder for what belongs to this cluster's tests.
    pub fn folder(&self) -> &Path {
        &self.servers.folder
    }

    /// The folder of our kinds' definitions.
    pub fn crds(&self) -> String {
        repository().join("crds").display().to_string()
    }

    /// The API server, to be paused.
    pub fn api_server(&self) -> &Process {
        &self.servers.api_server
    }

    /// Runs kubectl in the namespace; panics with what it says when it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        run(self.kubectl_command().args(args))
    }

    /// Runs kubectl in the namespace; what it says when it fails.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        try_run(self.kubectl_command().args(args))
    }

    /// `kubectl apply` of a manifest in the namespace; the refusal when it is refused.
    pub fn try_apply(&self, manifest: &str) -> Result<String, String> {
        let mut file = tempfile::NamedTempFile::new_in(self.folder()).unwrap();
        file.write_all(manifest.as_bytes()).unwrap();
        try_run(self.kubectl_command().args(["apply", "-f"]).arg(file.path()))
    }

    /// `kubectl apply` of a manifest that must be taken.
    pub fn apply(&self, manifest: &str) {
        self.try_apply(manifest).unwrap_or_else(|refusal| panic!("refused:\n{manifest}\n{refusal}"));
    }

    /// One object as JSON, `Null` when there is none.
    pub fn get(&self, kind: &str, name: &str) -> serde_json::Value {
        let found = self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "json"]);
        if found.trim().is_empty() { serde_json::Value::Null } else { serde_json::from_str(&found).unwrap() }
    }

    /// All objects of a kind in the namespace as JSON.
    pub fn list(&self, kind: &str) -> Vec<serde_json::Value> {
        let found = self.kubectl(&["get", kind, "-o", "json"]);
        let mut list: serde_json::Value = serde_json::from_str(&found).unwrap();
        match list["items"].take() {
            serde_json::Value::Array(items) => items,
            other => panic!("no list: {other}"),
        }
    }

    fn kubectl_command(&self) -> Command {
        let mut command = self.servers.kubectl();
        command.args(["--namespace", &self.namespace]);
        command
    }
}

impl Servers {
    /// Starts etcd and kube-apiserver; returns when the API server says that it is ready.
    fn start() -> Self {
        let folder = Scratch::new("cluster");
        let ports = [Port::free(), Port::free(), Port::free()];
        let [api, etcd, peer] = ports.each_ref().map(|port| port.number().to_string());
        run(script("pki").arg(&*folder).arg(&api));
        let start = |name: &str, args: &[&str]| {
            Process::spawn(name, script("test-server").arg(name).arg(&*folder).args(args), &folder.join(format!("{name}.log")))
        };
        let etcd_process = start("etcd", &[&etcd, &peer]);
        let api_server = start("kube-apiserver", &[&api, &etcd]);
        let mut servers = Self { controller_manager: None, api_server, _etcd: etcd_process, _ports: ports, folder };
        let mut ready = servers.kubectl();
        ready.args(["get", "--raw", "/readyz"]);
        servers.api_server.wait_ready(START, || try_run(&mut ready));
        servers
    }

    /// Starts kube-controller-manager; returns when it works.
    fn start_controller_manager(&mut self) {
        let name = "kube-controller-manager";
        let log = self.folder.join(format!("{name}.log"));
        let mut process = Process::spawn(name, script("test-server").arg(name).arg(&*self.folder), &log);
        // It makes this account in every namespace as one of its first deeds.
        let mut account = self.kubectl();
        account.args(["get", "serviceaccount", "default", "--namespace", "default"]);
        process.wait_ready(START, || try_run(&mut account));
        self.controller_manager = Some(process);
    }

    /// Applies `crds/` and waits until the API server serves each kind.
    fn apply_kinds(&mut self) {
        let crds = repository().join("crds");
        run(self.kubectl().args(["apply", "--server-side", "-f"]).arg(&crds));
        run(self.kubectl().args(["wait", "--for=condition=Established", "--timeout=60s", "-f"]).arg(&crds));
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new(tools().join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).arg("--request-timeout=60s");
        command.env("KUBECACHEDIR", self.folder.join("kubectl-cache"));
        command
    }
}
