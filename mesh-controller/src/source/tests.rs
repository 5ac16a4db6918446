use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_config::{
    document::Limits,
    kinds::{Kind, Name, ObjectKey},
    status::Code,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::telemetry::Telemetry;

const DEADLINE: Duration = Duration::from_secs(20);

struct Place {
    folder: TempDir,
    state: TempDir,
    scanner: Scanner,
    admission: Admission,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { file: 64 << 10, document: 8 << 10, depth: 32 };
        let state = tempfile::tempdir().unwrap();
        let scanner = Scanner::new(folder.path().to_path_buf(), state.path(), limits);
        Self { folder, state, scanner, admission: Admission::default() }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Scans and takes what is new; whether anything was.
    fn look(&mut self) -> bool {
        let sources = self.scanner.scan().unwrap();
        sources.is_some_and(|sources| self.admission.apply(sources))
    }

    fn pods(&self) -> Vec<String> {
        self.admission.objects().pods.keys().map(|name| name.name.to_string()).collect()
    }

    fn problems(&self) -> Vec<(PathBuf, String)> {
        let relative = |path: &Path| path.strip_prefix(self.folder.path()).unwrap().to_path_buf();
        self.admission.problems().iter().map(|problem| (relative(&problem.path), problem.text.clone())).collect()
    }
}

fn pod(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: []}}}}\n")
}

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}\n"
    )
}

fn policy_key() -> ObjectKey {
    ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p")
}

#[test]
fn every_file_of_the_folder_counts_but_hidden_ones() {
    let mut place = Place::new();
    place.write("a.yaml", &format!("{}---\n{}", pod("a1"), pod("a2")));
    place.write("deep/er/b.yml", &pod("b"));
    place.write("c.json", r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c", "namespace": "shop"}}]}"#);
    place.write(".hidden.yaml", &pod("no"));
    place.write(".git/x.yaml", &pod("no"));
    place.write("README.md", "no");
    assert!(place.look());
    assert_eq!(place.pods(), ["a1", "a2", "b", "c"]);
    assert!(!place.look(), "nothing has changed");

    fs::remove_file(place.folder.path().join("deep/er/b.yml")).unwrap();
    place.write("a.yaml", &pod("a2"));
    assert!(place.look());
    assert_eq!(place.pods(), ["a2", "c"]);
}

#[test]
fn the_status_that_a_kubelet_writes_is_laid_over_the_object() {
    let mut place = Place::new();
    place.write("a.yaml", &pod("a"));
    place.write(".status/Pod/shop/a.yaml", "status: {podIP: 10.0.0.1}");
    place.write(".status/Pod/other/a.yaml", "status: {podIP: 10.0.0.2}");
    place.write(".status/keelson/Pod/shop/a.yaml", "status: {podIP: 10.0.0.3}");
    assert!(place.look());
    let address = |place: &Place| {
        let pod = &place.admission.objects().pods[&Name::new("shop", "a")];
        pod.status.as_ref().and_then(|status| status.pod_ip.clone())
    };
    assert_eq!(address(&place).as_deref(), Some("10.0.0.1"));
    place.write(".status/Pod/shop/a.yaml", "status: {podIP: 10.0.0.9, phase: Running}");
    assert!(place.look());
    assert_eq!(address(&place).as_deref(), Some("10.0.0.9"));
    fs::remove_dir_all(place.folder.path().join(".status")).unwrap();
    assert!(place.look());
    assert_eq!(address(&place), None);
}

#[test]
fn a_half_written_file_keeps_what_it_had() {
    let mut place = Place::new();
    place.write("a.yaml", &format!("{}---\n{}", pod("a1"), pod("a2")));
    place.write("b.yaml", &pod("b"));
    assert!(place.look());
    place.write("a.yaml", &format!("{}---\n{{apiVersion: v1, ki", pod("a1")));
    place.write("b.yaml", &format!("{}---\n{}", pod("b"), pod("b2")));
    assert!(place.look());
    assert_eq!(place.pods(), ["a1", "a2", "b", "b2"], "other files go on");
    assert_eq!(place.problems()[0].0, Path::new("a.yaml"));
    place.write("a.yaml", &pod("a1"));
    assert!(place.look());
    assert_eq!(place.pods(), ["a1", "b", "b2"]);
    assert_eq!(place.problems(), []);
}

#[test]
fn a_half_written_file_keeps_what_it_had_over_a_restart() {
    let mut place = Place::new();
    place.write("a.yaml", &pod("a"));
    assert!(place.look());
    place.write("a.yaml", "{apiVersion: v1, ki");
    assert!(place.look());
    for _ in 0..2 {
        place.scanner = Scanner::new(place.folder.path().to_path_buf(), place.state.path(), Limits::default());
        place.admission = Admission::default();
        assert!(place.look());
        assert_eq!(place.pods(), ["a"]);
    }
    place.write("a.yaml", &pod("b"));
    assert!(place.look());
    assert_eq!(place.pods(), ["b"]);
    assert_eq!(fs::read_dir(place.state.path()).unwrap().count(), 0, "nothing is kept longer than it is needed");
}

#[test]
fn files_beyond_the_bounds_are_refused_alone() {
    let mut place = Place::new();
    place.write("a.yaml", &pod("a"));
    place.write("large-document.yaml", &format!("a: {}", "x".repeat(10 << 10)));
    place.write("large-file.yaml", &" ".repeat(65 << 10));
    place.write("binary.yaml", "\u{0}");
    assert!(place.look());
    assert_eq!(place.pods(), ["a"]);
    let files: Vec<PathBuf> = place.problems().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["binary.yaml", "large-document.yaml", "large-file.yaml"].map(PathBuf::from));
}

#[test]
fn links_are_followed_and_loops_are_told() {
    let mut place = Place::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("x.yaml"), pod("x")).unwrap();
    place.write("sub/a.yaml", &pod("a"));
    let root = place.folder.path().to_path_buf();
    symlink(elsewhere.path(), root.join("linked")).unwrap();
    symlink(&root, root.join("sub/up")).unwrap();
    symlink("self.yaml", root.join("self.yaml")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling.yaml")).unwrap();
    assert!(place.look());
    assert_eq!(place.pods(), ["a", "x"]);
    let files: Vec<PathBuf> = place.problems().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["dangling.yaml", "self.yaml", "sub/up"].map(PathBuf::from));
}

#[test]
fn a_folder_that_vanishes_changes_nothing() {
    let mut place = Place::new();
    place.write("a.yaml", &pod("a"));
    assert!(place.look());
    let (root, away) = (place.folder.path().to_path_buf(), place.folder.path().with_extension("away"));
    fs::rename(&root, &away).unwrap();
    assert!(place.scanner.scan().is_err());
    assert_eq!(place.pods(), ["a"]);
    fs::rename(&away, &root).unwrap();
    assert!(!place.look(), "it came back as it was");
}

#[test]
fn a_refused_object_keeps_its_last_good_version() {
    let mut place = Place::new();
    place.write("p.yaml", &policy("{action: DENY, rules: [{}]}"));
    assert!(place.look());
    place.write("p.yaml", &policy("{action: DENY, rules: [{}], unknown: 1}"));
    assert!(place.look());
    assert_eq!(place.admission.refused(), 1);
    let standing = place.admission.standing(&policy_key()).unwrap();
    assert!(standing.refused && standing.kept);
    assert_eq!(place.admission.objects().authorization_policies.len(), 1);
    let (_, messages) = place.admission.messages().next().unwrap();
    assert_eq!((messages[0].code, messages[0].field.as_str()), (Code::Invalid, "spec.unknown"));

    // Another bad version does not make the good one forgotten; removal does.
    place.write("p.yaml", &policy("{action: DENY, rules: []}"));
    assert!(place.look());
    assert_eq!(place.admission.objects().authorization_policies[&Name::new("shop", "p")].spec.rules.len(), 1);
    fs::remove_file(place.folder.path().join("p.yaml")).unwrap();
    assert!(place.look());
    assert_eq!(place.admission.objects().authorization_policies.len(), 0);
    place.write("p.yaml", &policy("{action: DENY, rules: []}"));
    assert!(place.look());
    let standing = place.admission.standing(&policy_key()).unwrap();
    assert!(standing.refused && !standing.kept);
    assert_eq!(place.admission.objects().authorization_policies.len(), 0);
}

#[test]
fn the_last_good_version_outlives_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let mut place = Place::new();
    place.admission = Admission::load(state.path());
    place.write("p.yaml", &policy("{action: DENY, rules: [{}]}"));
    assert!(place.look());
    assert!(!state.path().join(HELD_FILE).exists(), "nothing is needed yet");
    place.write("p.yaml", &policy("{action: DENY, bad: 1, rules: [{}]}"));
    assert!(place.look());
    assert!(state.path().join(HELD_FILE).exists());

    let restart = |place: &mut Place| {
        place.scanner = Scanner::new(place.folder.path().to_path_buf(), state.path(), Limits::default());
        place.admission = Admission::load(state.path());
        assert!(place.look());
    };
    restart(&mut place);
    assert_eq!(place.admission.objects().authorization_policies.len(), 1);
    restart(&mut place);
    assert_eq!(place.admission.objects().authorization_policies.len(), 1, "a second restart too");

    place.write("p.yaml", &policy("{action: DENY, rules: [{}]}"));
    assert!(place.look());
    assert!(!state.path().join(HELD_FILE).exists());
}

#[test]
fn an_object_that_is_there_twice_counts_once() {
    let mut place = Place::new();
    place.write("a.yaml", &policy("{action: DENY, rules: [{}]}"));
    place.write("b.yaml", &policy("{}"));
    assert!(place.look());
    assert_eq!(place.admission.objects().authorization_policies[&Name::new("shop", "p")].spec.rules.len(), 1);
    assert_eq!(place.problems()[0].0, Path::new("b.yaml"));
    assert!(!place.look());
    fs::remove_file(place.folder.path().join("a.yaml")).unwrap();
    assert!(place.look());
    assert_eq!(place.admission.objects().authorization_policies[&Name::new("shop", "p")].spec.rules.len(), 0);
    assert_eq!(place.problems(), []);
}

#[test]
fn documents_that_are_nothing_are_told() {
    let mut place = Place::new();
    place.write("a.yaml", "{kind: Pod}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: ../../x}}\n---\n{apiVersion: apps/v1, kind: Deployment}\n---\n{apiVersion: networking.istio.io/v1, kind: WasmPlugin, metadata: {name: v, namespace: shop}}\n");
    assert!(place.look());
    assert_eq!(place.problems().len(), 2);
    let unsupported: Vec<_> = place.admission.ignored().keys().cloned().collect();
    assert_eq!(unsupported, [("WasmPlugin".to_owned(), "shop".to_owned(), "v".to_owned())]);
}

#[tokio::test]
async fn an_edit_wakes_the_watch() {
    let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(directory.path().join("a.yaml"), pod("a")).unwrap();
    let (folder, first) = Folder::open(directory.path(), state.path(), Arc::new(Telemetry::new())).unwrap();
    assert_eq!(first.documents.len(), 1);
    let (sender, mut states) = mpsc::channel(4);
    let watch = tokio::spawn(folder.watch(sender));

    let next = async |states: &mut mpsc::Receiver<News>, documents: usize| {
        let is_wanted = |news: News| matches!(news, News::State(sources) if sources.documents.len() == documents);
        timeout(DEADLINE, async { while !is_wanted(states.recv().await.unwrap()) {} }).await.expect("the new state arrives");
    };
    fs::write(directory.path().join("b.yaml"), pod("b")).unwrap();
    next(&mut states, 2).await;
    fs::create_dir(directory.path().join("new")).unwrap();
    fs::write(directory.path().join("new/c.yaml"), pod("c")).unwrap();
    next(&mut states, 3).await;

    // The folder is replaced by another one, which is then watched.
    let away = directory.path().with_extension("away");
    fs::rename(directory.path(), &away).unwrap();
    fs::create_dir(directory.path()).unwrap();
    fs::write(directory.path().join("d.yaml"), pod("d")).unwrap();
    next(&mut states, 1).await;
    fs::remove_dir_all(away).unwrap();
    watch.abort();
}

#[test]
fn there_is_no_start_without_a_folder() {
    let opened = Folder::open(Path::new("/nowhere/at/all"), Path::new("/nowhere"), Arc::new(Telemetry::new()));
    assert!(matches!(opened, Err(FolderError::Read { .. })));
}
