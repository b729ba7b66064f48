//! What `deploy/` and the pages tell Kubernetes, containerd and CRI-O, against their own types and among itself.

use std::{collections::BTreeSet, fs, path::Path};

use integration::{deploy::repository, page::Page};
use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Pod, PodSpec, PodTemplateSpec, Service, ServiceAccount},
        node::v1::RuntimeClass,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const LABEL: &str = "katacontainers.io/kata-runtime";

/// One document, with what it came from.
#[derive(Debug)]
struct Document {
    file: String,
    value: Value,
}

impl Document {
    fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// As Kubernetes' own type, if it is of its kind: every field has to be one of the type's, with a fitting value.
    fn read<T: Resource + Serialize + DeserializeOwned>(&self) -> Option<T> {
        if self.value["apiVersion"] != T::API_VERSION || self.kind() != T::KIND {
            return None;
        }
        let read: T = serde_json::from_value(self.value.clone())
            .unwrap_or_else(|error| panic!("{}: {}: {error}", self.file, self.kind()));
        let back = serde_json::to_value(&read).unwrap();
        if let Some(path) = missing(&self.value, &back) {
            panic!("{}: {} has no field {path}", self.file, self.kind());
        }
        Some(read)
    }

    fn is_known(&self) -> bool {
        self.read::<DaemonSet>().is_some()
            || self.read::<Deployment>().is_some()
            || self.read::<Pod>().is_some()
            || self.read::<Service>().is_some()
            || self.read::<ServiceAccount>().is_some()
            || self.read::<RuntimeClass>().is_some()
            || self.read::<ClusterRole>().is_some()
            || self.read::<ClusterRoleBinding>().is_some()
    }
}

/// The first path of `written` that `read` has not.
fn missing(written: &Value, read: &Value) -> Option<String> {
    let join = |name: String, rest: String| format!("{name}{}{rest}", if rest.is_empty() { "" } else { "." });
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(name, value)| {
            let Some(other) = read.get(name) else { return Some(name.clone()) };
            missing(value, other).map(|rest| join(name.clone(), rest))
        }),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            let mut pairs = written.iter().zip(read).enumerate();
            pairs
                .find_map(|(at, (value, other))| missing(value, other).map(|rest| join(at.to_string(), rest)))
        }
        _ => (written != read).then(|| format!("({written})")),
    }
}

fn documents_of(file: &str, text: &str) -> Vec<Document> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    values.into_iter().map(|value| Document { file: file.to_owned(), value }).collect()
}

/// Every document of `deploy/`.
fn documents() -> Vec<Document> {
    let files = ["deploy", "deploy/examples"].map(|dir| fs::read_dir(repository().join(dir)).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.flat_map(|path| documents_of(&path.display().to_string(), &text(&path))).collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn all<T: Resource + Serialize + DeserializeOwned>() -> Vec<(String, T)> {
    documents().into_iter().filter_map(|document| Some((document.file.clone(), document.read()?))).collect()
}

fn only<T>(mut found: Vec<T>) -> T {
    assert_eq!(found.len(), 1);
    found.pop().unwrap()
}

/// Every pod that is written down, as itself or as a template.
fn pods() -> Vec<(String, PodSpec)> {
    let pods = all::<Pod>().into_iter().map(|(file, pod)| (file, pod.spec.unwrap()));
    let daemons = all::<DaemonSet>().into_iter().map(|(file, set)| (file, set.spec.template.spec.unwrap()));
    let deployments =
        all::<Deployment>().into_iter().map(|(file, set)| (file, set.spec.template.spec.unwrap()));
    pods.chain(daemons).chain(deployments).collect()
}

/// The blocks of a language in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    Page::read(page).blocks(language, None).into_iter().map(|block| block.text.clone()).collect()
}

#[test]
fn every_document_is_one_of_kubernetes() {
    let documents = documents();
    assert!(documents.len() >= 13, "{}", documents.len());
    for document in documents {
        assert!(document.is_known(), "{}: {} is of no known kind", document.file, document.kind());
    }
}

#[test]
fn a_field_that_kubernetes_does_not_have_is_found() {
    let pod = |spec: &str| {
        documents_of("here", &format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n{spec}"))
    };
    assert!(pod("    image: b\n")[0].is_known());
    for wrong in ["    imagePolicy: b\n", "    ports: [{containerport: 1}]\n", "  runtimeClass: kata\n"] {
        let document = pod(wrong).remove(0);
        assert!(std::panic::catch_unwind(move || document.is_known()).is_err(), "{wrong}");
    }
}

#[test]
fn files_that_the_pages_name_are_there() {
    let mut count = 0;
    for page in ["kubernetes.md", "cri-o.md"] {
        let page = text(&repository().join("docs").join(page));
        let is_path = |letter: char| letter.is_ascii_alphanumeric() || "/-_.".contains(letter);
        for word in page.split(|letter| !is_path(letter)).map(|word| word.trim_matches('.')) {
            // Links come from the folder beside.
            let path = word.trim_start_matches("./").trim_start_matches('/');
            if path.starts_with("deploy/") {
                assert!(repository().join(path).exists(), "{path}");
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count}");
}

fn selects(selector: &LabelSelector, template: &PodTemplateSpec) -> bool {
    let wanted = selector.match_labels.clone().unwrap_or_default();
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[test]
fn selectors_find_their_pods() {
    for (file, set) in all::<DaemonSet>() {
        let spec = set.spec;
        assert!(selects(&spec.selector, &spec.template), "{file}");
    }
    let mut templates = Vec::new();
    for (file, set) in all::<Deployment>() {
        let spec = set.spec;
        assert!(selects(&spec.selector, &spec.template), "{file}");
        templates.push(spec.template);
    }
    for (file, service) in all::<Service>() {
        let spec = service.spec.unwrap();
        let selector = LabelSelector { match_labels: spec.selector, ..Default::default() };
        let template = only(templates.iter().filter(|template| selects(&selector, template)).collect());
        let containers = &template.spec.as_ref().unwrap().containers;
        let names: Vec<_> = containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| port.name.clone())
            .collect();
        for port in spec.ports.unwrap() {
            let Some(IntOrString::String(name)) = port.target_port else {
                panic!("{file}: a port by number")
            };
            assert!(names.contains(&name), "{file}: {name}");
        }
    }
}

#[test]
fn pods_mount_and_name_what_there_is() {
    let classes: BTreeSet<_> =
        all::<RuntimeClass>().into_iter().filter_map(|(_, class)| class.metadata.name).collect();
    let accounts: BTreeSet<_> =
        all::<ServiceAccount>().into_iter().filter_map(|(_, account)| account.metadata.name).collect();
    for (file, spec) in pods() {
        if file.contains("examples") {
            assert!(classes.contains(&spec.runtime_class_name.clone().expect("a class is named")), "{file}");
        }
        assert!(spec.service_account_name.iter().all(|name| accounts.contains(name)), "{file}");
        let volumes: BTreeSet<_> = spec.volumes.iter().flatten().map(|volume| volume.name.clone()).collect();
        for container in &spec.containers {
            assert!(container.image.is_some(), "{file}: {}", container.name);
            for mount in container.volume_mounts.iter().flatten() {
                assert!(volumes.contains(&mount.name), "{file}: {}", mount.name);
            }
        }
    }
}

#[test]
fn the_installers_rights_are_its_service_accounts() {
    let (_, account) = only(all::<ServiceAccount>());
    let (_, role) = only(all::<ClusterRole>());
    let (_, binding) = only(all::<ClusterRoleBinding>());
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    let subject = only(binding.subjects.unwrap());
    assert_eq!(
        (Some(subject.name), subject.namespace),
        (account.metadata.name, account.metadata.namespace.clone())
    );
    for (file, set) in all::<DaemonSet>() {
        assert_eq!(set.metadata.namespace, account.metadata.namespace, "{file}");
    }
}

#[test]
fn install_and_cleanup_run_the_same_image_and_the_script_that_is_in_it() {
    let recipe = text(&repository().join("deploy/Containerfile"));
    let sets = all::<DaemonSet>();
    let containers: Vec<_> =
        sets.into_iter().map(|(_, set)| only(set.spec.template.spec.unwrap().containers)).collect();
    assert_eq!(containers.len(), 2);
    assert_eq!(containers[0].image, containers[1].image);
    for container in containers {
        let command = container.command.unwrap();
        assert!(recipe.contains(&format!("COPY deploy/kata-deploy.sh {}\n", command[0])), "{}", command[0]);
        assert!(command[1..].iter().all(|action| ["install", "cleanup", "reset"].contains(&action.as_str())));
        assert!(recipe.contains(&format!("podman build -t {} ", container.image.unwrap())));
    }
}

/// The handlers in a table of configuration.
fn handlers(path: &str, tables: &[&str]) -> BTreeSet<String> {
    let text = text(&repository().join(path));
    let mut value: toml::Value = toml::Value::Table(text.parse().unwrap());
    for table in tables {
        value = value.get_mut(*table).unwrap_or_else(|| panic!("{path} has no {table}")).clone();
    }
    value.as_table().unwrap().keys().cloned().collect()
}

#[test]
fn every_engine_gets_the_handlers_that_runtime_classes_name() {
    let classes = all::<RuntimeClass>().into_iter().filter(|(file, _)| file.ends_with("/runtime-class.yaml"));
    let named: BTreeSet<_> = classes
        .map(|(file, class)| {
            let overhead = class.overhead.and_then(|overhead| overhead.pod_fixed).expect(&file);
            assert!(overhead.contains_key("memory") && overhead.contains_key("cpu"), "{file}");
            let selector = class.scheduling.and_then(|scheduling| scheduling.node_selector).expect(&file);
            assert_eq!(selector.get(LABEL).map(String::as_str), Some("true"), "{file}");
            class.handler
        })
        .collect();
    let v2 = ["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"];
    let v3 = ["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"];
    assert_eq!(handlers("deploy/containerd/kata-v2.toml", &v2), named);
    assert_eq!(handlers("deploy/containerd/kata-v3.toml", &v3), named);
    assert_eq!(handlers("deploy/crio/50-kata.conf", &["crio", "runtime", "runtimes"]), named);
    let script = text(&repository().join("deploy/kata-deploy.sh"));
    assert!(script.contains(&format!("label={LABEL}\n")));
}

#[test]
fn cri_o_is_told_what_its_manual_knows() {
    // crio.conf(5), "CRIO.RUNTIME.RUNTIMES TABLE".
    let known = [
        "allowed_annotations",
        "monitor_env",
        "platform_runtime_paths",
        "privileged_without_host_devices",
        "runtime_config_path",
        "runtime_path",
        "runtime_root",
        "runtime_type",
    ];
    let mut texts: Vec<_> = ["50-kata", "51-kata-oci"]
        .map(|name| text(&repository().join(format!("deploy/crio/{name}.conf"))))
        .into();
    texts.extend(blocks("cri-o.md", "toml"));
    assert!(texts.len() >= 3);
    for text in texts {
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["crio"]);
        let runtimes = table["crio"]["runtime"]["runtimes"].as_table().unwrap();
        for (name, runtime) in runtimes {
            for key in runtime.as_table().unwrap().keys() {
                assert!(known.contains(&key.as_str()), "{name}: {key}");
            }
            let path = Path::new(runtime["runtime_path"].as_str().unwrap());
            let program = path.file_name().unwrap().to_str().unwrap();
            match runtime["runtime_type"].as_str() {
                // CRI-O takes a program for a shim by the form of its name.
                Some("vm") => assert_eq!(program, "containerd-shim-kata-v2"),
                // And keeps a pod's first container by that of its handler.
                Some("oci") => assert!(program == "kata-runtime" && name.contains("kata"), "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn annotations_of_pods_are_on_the_page() {
    let page = text(&repository().join("docs/kubernetes.md"));
    let mut count = 0;
    for (file, pod) in all::<Pod>() {
        for name in pod.metadata.annotations.unwrap_or_default().into_keys() {
            let setting =
                name.strip_prefix("io.katacontainers.config.").and_then(|rest| rest.split_once('.'));
            let (table, key) = setting.unwrap_or_else(|| panic!("{file}: {name}"));
            let (table, key) = (format!("| `{table}.`: "), format!("`{key}`"));
            let mut rows = page.lines().filter(|line| line.starts_with(&table));
            assert!(rows.any(|line| line.contains(&key)), "{file}: {name}");
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn tables_of_the_page_are_toml() {
    for block in blocks("kubernetes.md", "toml") {
        block.parse::<toml::Table>().unwrap_or_else(|error| panic!("{error}:\n{block}"));
    }
}
