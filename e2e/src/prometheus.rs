//! A Prometheus that scrapes the release as the chart's ServiceMonitors tell one to.
//!
//! Debian's is built without discovery in Kubernetes, so that is done here, once: every endpoint of a Service gets the labels that
//! Prometheus' own discovery would give it, and what is kept and relabelled is as the ServiceMonitors say. Pods are scraped through
//! `kubectl proxy`, as the administrator: so it works wherever kubectl does, also where pods' addresses are not to be reached from
//! here. The data stays in the folder `prometheus` of the world, for `e2e/pictures.py`.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    command::{checkout, helm, printed, world_script},
    wait::{patience, try_until},
    world::World,
};

/// How often everything is scraped and rules are evaluated, in seconds: sooner than anywhere else, so that a story sees it.
const INTERVAL: u32 = 2;
/// What Grafana puts in for `$__rate_interval` at least: four intervals.
pub const RATE_INTERVAL: &str = "8s";

/// A running Prometheus. It ends with this.
pub struct Prometheus {
    url: String,
    server: Child,
    _proxy: Child,
}

/// One series of an answer: its labels.
pub type Labels = serde_json::Map<String, Value>;

impl Prometheus {
    /// Starts one with the chart's alerts, and with nothing in its memory.
    pub async fn start(world: &World) -> Result<Self> {
        let (proxy, proxied) = api_server_proxy().await?;
        let folder = PathBuf::from(world_script(["folder"]).await?.trim()).join("prometheus");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let own = free_address()?;
        let file = folder.join("prometheus.yaml");
        // YAML reads JSON.
        let monitors = service_monitors(world).await?;
        let targets = folder.join("targets.json");
        write(&targets, &Value::Array(endpoints(world).await?))?;
        write(&file, &configuration(&monitors, &targets, &proxied, &own)?)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={own}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start prometheus; e2e/setup.sh takes it out of Debian's package")?;
        let mut prometheus = Self {
            url: format!("http://{own}"),
            server,
            _proxy: proxy,
        };
        prometheus.until_ready(&folder.join("log")).await?;
        Ok(prometheus)
    }

    /// Waits until it answers; if it ends instead, its log says why.
    async fn until_ready(&mut self, log: &Path) -> Result<()> {
        let url = self.url.clone();
        let ready = try_until("Prometheus answers", || ask(&url, "vector(1)"));
        let ended = tokio::select! {
            answer = ready => return answer.map(drop),
            status = self.server.wait() => status?,
        };
        let words = std::fs::read_to_string(log).unwrap_or_default();
        bail!("prometheus has ended with {ended}: {words}")
    }

    /// The series that a query returns now, by their labels.
    pub async fn series(&self, query: &str) -> Result<Vec<Labels>> {
        let answer = ask(&self.url, query).await?;
        let series = answer
            .into_iter()
            .filter_map(|mut one| match one["metric"].take() {
                Value::Object(labels) => Some(labels),
                _ => None,
            });
        Ok(series.collect())
    }

    /// What a query returns that counts something; `None` if it returns no series.
    pub async fn count(&self, query: &str) -> Result<Option<u64>> {
        let answer = ask(&self.url, query).await?;
        ensure!(answer.len() < 2, "{query} gives several: {answer:?}");
        let value = answer
            .first()
            .and_then(|one| one.pointer("/value/1")?.as_str());
        value
            .map(|text| text.parse().with_context(|| format!("count {text}")))
            .transpose()
    }
}

/// What the Prometheus at `url` answers: its series.
async fn ask(url: &str, query: &str) -> Result<Vec<Value>> {
    let arguments = ["query", "instant", "--format=json", url, query];
    let text = printed("promtool", arguments, None).await?;
    serde_json::from_str(&text).with_context(|| format!("read the answer {text:?}"))
}

/// Writes `content` as JSON.
fn write(path: &Path, content: &Value) -> Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(content)?)
        .with_context(|| format!("write {}", path.display()))
}

/// `kubectl proxy` and its address.
async fn api_server_proxy() -> Result<(Child, String)> {
    let mut proxy = Command::new("kubectl")
        .args(["proxy", "--port=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start kubectl proxy")?;
    let output = proxy.stdout.take().context("read kubectl's output")?;
    let line = timeout(patience(), BufReader::new(output).lines().next_line())
        .await
        .context("wait for kubectl proxy")??
        .context("kubectl proxy ended")?;
    let address = line.strip_prefix("Starting to serve on ");
    let address = address.with_context(|| format!("kubectl proxy says {line:?}"))?;
    Ok((proxy, address.to_owned()))
}

/// An address of this machine that nobody listens at.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// The ServiceMonitors that the chart makes for this release.
async fn service_monitors(world: &World) -> Result<Vec<Value>> {
    let chart = checkout().join("charts/gridstake");
    let chart = chart.to_string_lossy();
    let rendered = helm([
        "template",
        &world.release,
        &chart,
        "--namespace",
        &world.namespace,
        "--show-only",
        "templates/monitoring/services.yaml",
        "--set",
        "monitoring.serviceMonitor.enabled=true",
    ])
    .await?;
    let mut monitors = Vec::new();
    for document in rendered.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).context("read what helm gives")?;
        if object["kind"] == "ServiceMonitor" {
            monitors.push(object);
        }
    }
    ensure!(
        monitors.len() == 2,
        "{} ServiceMonitors are made",
        monitors.len()
    );
    Ok(monitors)
}

/// Every endpoint of every Service in the release's namespace, as Prometheus' discovery of the role `endpoints` describes it.
async fn endpoints(world: &World) -> Result<Vec<Value>> {
    let all = ListParams::default();
    let services: Api<Service> = Api::namespaced(world.client.clone(), &world.namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.namespace);
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let services = services.list(&all).await.context("list the Services")?;
    let slices = slices.list(&all).await.context("list the EndpointSlices")?;
    let pods = pods.list(&all).await.context("list the pods")?;
    let mut targets = Vec::new();
    for slice in &slices {
        let of = slice.labels().get("kubernetes.io/service-name");
        let service = services
            .iter()
            .find(|service| of == Some(&service.name_any()));
        let Some(service) = service else { continue };
        for port in slice.ports.iter().flatten() {
            for endpoint in &slice.endpoints {
                let pod = endpoint.target_ref.as_ref().and_then(|r| r.name.as_ref());
                let pod = pods.iter().find(|other| pod == Some(&other.name_any()));
                if let (Some(number), Some(pod)) = (port.port, pod) {
                    let port = (port.name.as_deref().unwrap_or_default(), number);
                    targets.push(target(service, port, &endpoint.addresses, pod));
                }
            }
        }
    }
    Ok(targets)
}

/// One pod behind a Service, with the labels that Prometheus' discovery gives it.
fn target(service: &Service, port: (&str, i32), addresses: &[String], pod: &Pod) -> Value {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut listening = containers.filter(|container| {
        let ports = container.ports.iter().flatten();
        ports.into_iter().any(|of| of.container_port == port.1)
    });
    let mut labels = json!({
        "__meta_kubernetes_namespace": service.namespace(),
        "__meta_kubernetes_service_name": service.name_any(),
        "__meta_kubernetes_endpoint_port_name": port.0,
        "__meta_kubernetes_pod_name": pod.name_any(),
        "__meta_kubernetes_pod_node_name": pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "__meta_kubernetes_pod_container_name": listening.next().map(|container| &container.name),
    });
    for (label, value) in service.labels() {
        labels[format!("__meta_kubernetes_service_label_{}", word(label))] = json!(value);
    }
    let addresses: Vec<String> = addresses
        .iter()
        .map(|address| format!("{address}:{}", port.1))
        .collect();
    json!({"targets": addresses, "labels": labels})
}

/// A name of Kubernetes as a part of Prometheus' label names.
fn word(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// What Prometheus is told: to scrape those of `targets` that `monitors` choose, through the API server at `proxied`; and itself at
/// `own`.
fn configuration(monitors: &[Value], targets: &Path, proxied: &str, own: &str) -> Result<Value> {
    let mut jobs = monitors
        .iter()
        .map(|monitor| scrape_job(monitor, targets, proxied))
        .collect::<Result<Vec<_>>>()?;
    jobs.push(json!({"job_name": "prometheus", "static_configs": [{"targets": [own]}]}));
    let interval = format!("{INTERVAL}s");
    let alerts = checkout().join("charts/gridstake/files/alerts.yaml");
    Ok(json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [alerts.to_string_lossy()],
        "scrape_configs": jobs,
    }))
}

/// What the Prometheus operator makes of a ServiceMonitor with one endpoint; but the pods are reached through the API server.
fn scrape_job(monitor: &Value, targets: &Path, proxied: &str) -> Result<Value> {
    let text = |pointer: &str| {
        let found = monitor.pointer(pointer).and_then(Value::as_str);
        found.with_context(|| format!("find {pointer} in a ServiceMonitor"))
    };
    let list = |pointer: &str| {
        let found = monitor.pointer(pointer).and_then(Value::as_array);
        found.with_context(|| format!("find {pointer} in a ServiceMonitor"))
    };
    let keep = |label: &str, regex: &str| {
        let label = format!("__meta_kubernetes_{label}");
        json!({"action": "keep", "source_labels": [label], "regex": regex})
    };
    let namespaces = list("/spec/namespaceSelector/matchNames")?;
    let namespaces: Vec<&str> = namespaces.iter().filter_map(Value::as_str).collect();
    let mut relabelings = vec![
        keep("namespace", &namespaces.join("|")),
        keep("endpoint_port_name", text("/spec/endpoints/0/port")?),
    ];
    let selected = monitor.pointer("/spec/selector/matchLabels");
    let selected = selected.and_then(Value::as_object);
    for (label, value) in selected.context("find what the ServiceMonitor selects")? {
        let value = value.as_str().context("read a label that it selects")?;
        relabelings.push(keep(&format!("service_label_{}", word(label)), value));
    }
    for (label, of) in [
        ("job", "service_name"),
        ("service", "service_name"),
        ("namespace", "namespace"),
        ("pod", "pod_name"),
        ("container", "pod_container_name"),
        ("endpoint", "endpoint_port_name"),
    ] {
        relabelings.push(json!({
            "source_labels": [format!("__meta_kubernetes_{of}")], "target_label": label,
        }));
    }
    relabelings.push(json!({"source_labels": ["__address__"], "target_label": "instance"}));
    let endpoint = &monitor["spec"]["endpoints"][0];
    relabelings.extend(as_prometheus_says(&endpoint["relabelings"])?);
    let path = text("/spec/endpoints/0/path")?;
    relabelings.push(json!({
        "source_labels": ["namespace", "pod", "__address__"], "regex": "(.+);(.+);.+:([0-9]+)",
        "target_label": "__metrics_path__",
        "replacement": format!("/api/v1/namespaces/$1/pods/$2:$3/proxy{path}"),
    }));
    relabelings.push(json!({"target_label": "__address__", "replacement": proxied}));
    Ok(json!({
        "job_name": text("/metadata/name")?,
        "file_sd_configs": [{"files": [targets.to_string_lossy()]}],
        "relabel_configs": relabelings,
        "metric_relabel_configs": as_prometheus_says(&endpoint["metricRelabelings"])?,
    }))
}

/// Relabelings of a ServiceMonitor in Prometheus' own words: snake_case.
fn as_prometheus_says(relabelings: &Value) -> Result<Vec<Value>> {
    let mut said = Vec::new();
    for relabeling in relabelings.as_array().into_iter().flatten() {
        let mut own = serde_json::Map::new();
        for (key, value) in relabeling.as_object().context("read a relabeling")? {
            let key = match key.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                "action" | "regex" | "replacement" | "separator" | "modulus" => key,
                other => bail!("a ServiceMonitor says {other}, which is not known here"),
            };
            own.insert(key.to_owned(), value.clone());
        }
        said.push(Value::Object(own));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> Value {
        json!({
            "kind": "ServiceMonitor",
            "metadata": {"name": "gridstake-device-agent-metrics"},
            "spec": {
                "namespaceSelector": {"matchNames": ["here"]},
                "selector": {"matchLabels": {"app.kubernetes.io/component": "device-agent"}},
                "endpoints": [{
                    "port": "http", "path": "/metrics",
                    "relabelings": [{"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
                    "metricRelabelings": [{"action": "keep", "sourceLabels": ["__name__"], "regex": "gridstake_gpu_.+"}],
                }],
            },
        })
    }

    #[test]
    fn a_service_monitor_becomes_a_job_that_keeps_its_services_and_its_relabelings() {
        let job = scrape_job(&monitor(), Path::new("targets.json"), "127.0.0.1:8001").unwrap();
        let relabelings = job["relabel_configs"].as_array().unwrap();
        for wanted in [
            json!({"action": "keep", "source_labels": ["__meta_kubernetes_namespace"], "regex": "here"}),
            json!({"action": "keep", "source_labels": ["__meta_kubernetes_endpoint_port_name"], "regex": "http"}),
            json!({
                "action": "keep", "source_labels": ["__meta_kubernetes_service_label_app_kubernetes_io_component"],
                "regex": "device-agent",
            }),
            json!({
                "action": "replace", "source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node",
            }),
            json!({"target_label": "__address__", "replacement": "127.0.0.1:8001"}),
        ] {
            assert!(relabelings.contains(&wanted), "{wanted} in {relabelings:?}");
        }
        assert_eq!(
            job["metric_relabel_configs"],
            json!([{"action": "keep", "source_labels": ["__name__"], "regex": "gridstake_gpu_.+"}])
        );
    }

    #[test]
    fn an_endpoint_has_the_labels_of_its_service_and_its_pod() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "agents", "namespace": "here", "labels": {"app.kubernetes.io/component": "device-agent"}},
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "agent-1"},
            "spec": {"nodeName": "node-a", "containers": [
                {"name": "other"},
                {"name": "agent", "ports": [{"containerPort": 9400}]},
            ]},
        }))
        .unwrap();
        let target = target(&service, ("http", 9400), &["10.0.0.7".to_owned()], &pod);
        assert_eq!(
            target,
            json!({
                "targets": ["10.0.0.7:9400"],
                "labels": {
                    "__meta_kubernetes_namespace": "here",
                    "__meta_kubernetes_service_name": "agents",
                    "__meta_kubernetes_service_label_app_kubernetes_io_component": "device-agent",
                    "__meta_kubernetes_endpoint_port_name": "http",
                    "__meta_kubernetes_pod_name": "agent-1",
                    "__meta_kubernetes_pod_node_name": "node-a",
                    "__meta_kubernetes_pod_container_name": "agent",
                },
            })
        );
    }

    #[test]
    fn a_word_of_a_service_monitor_that_is_not_known_is_not_passed_over() {
        let mut monitor = monitor();
        monitor["spec"]["endpoints"][0]["relabelings"][0]["targetLabelSuffix"] = json!("x");
        assert!(scrape_job(&monitor, Path::new("targets.json"), "127.0.0.1:8001").is_err());
    }
}
