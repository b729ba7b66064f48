//! Images as the kubelet uses them: pulled from a registry, run, found again when it is asked for them again, and removed.
//! The runtime has no part in most of it, but pods begin with it.

use integration::{
    environment::Environment,
    kubelet::{KATA, Kubelet, RUNC},
    registry::Registry,
};
use k8s_cri::v1::{
    ContainerConfig, Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest, RemoveImageResponse,
};
use serde_json::json;
use tonic::{Code, Status};

fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.into(), ..Default::default() }
}

fn pull(kubelet: &Kubelet, name: &str) -> Result<String, Status> {
    let question = PullImageRequest { image: Some(spec(name)), auth: None, sandbox_config: None };
    let answer: PullImageResponse = kubelet.images("PullImage", question)?;
    Ok(answer.image_ref)
}

fn status(kubelet: &Kubelet, name: &str) -> Option<Image> {
    let question = ImageStatusRequest { image: Some(spec(name)), verbose: false };
    let answer: ImageStatusResponse = kubelet.images("ImageStatus", question).expect("an answer");
    answer.image
}

fn remove(kubelet: &Kubelet, name: &str) {
    let question = RemoveImageRequest { image: Some(spec(name)) };
    kubelet.images::<_, RemoveImageResponse>("RemoveImage", question).expect("removed");
}

/// A container that does what its image says.
fn of_image(kubelet: &Kubelet, name: &str, image: &str) -> ContainerConfig {
    let config = kubelet.script(name, "");
    ContainerConfig { image: Some(spec(image)), command: Vec::new(), ..config }
}

/// What an image of the tests sets.
fn config(version: &str) -> serde_json::Value {
    json!({
        "Env": ["PATH=/bin", format!("VERSION={version}")],
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo $VERSION $(pwd) $(id -u):$(id -g); exec sleep 1000"],
        "WorkingDir": "/tmp",
        "User": "1000:1001",
    })
}

fn pods_run_what_was_pulled(release: &str, handler: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let env = Environment::find().expect("it was found for the kubelet");
    let Some(registry) = Registry::start(&env, &kubelet.host.name) else { return };
    let first_digest = registry.push(&env, "tests/app", "v", &config("one"));
    let app = registry.name("tests/app:v");
    let pod_config = kubelet.pod("pulled");
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let run = |name: &str, image: &str| {
        let config = of_image(&kubelet, name, image);
        let container = kubelet.run(&pod, &config, &pod_config)?;
        kubelet.containerd.wait_for("a line of the log", || !kubelet.log(&config).is_empty());
        Ok::<_, Status>((container, kubelet.log(&config)))
    };
    let log = |version: &str| format!("{version} /tmp 1000:1001\n");

    // It is not there, and one that nobody has stays so.
    assert_eq!(status(&kubelet, &app), None);
    assert_eq!(run("early", &app).unwrap_err().code(), Code::NotFound);
    let missing = registry.name("tests/app:missing");
    assert_eq!(pull(&kubelet, &missing).unwrap_err().code(), Code::NotFound);
    assert_eq!(status(&kubelet, &missing), None);

    // Pulled once, and again, which changes nothing.
    let first = pull(&kubelet, &app).unwrap();
    let image = status(&kubelet, &app).expect("it is there now");
    assert_eq!(image.id, first);
    assert_eq!(image.repo_tags, [app.as_str()]);
    let by_digest = registry.name(&format!("tests/app@{first_digest}"));
    assert_eq!(image.repo_digests, [by_digest.as_str()]);
    assert_eq!(image.uid.map(|uid| uid.value), Some(1000));
    assert!(image.size > 100_000, "{}", image.size);
    assert_eq!(pull(&kubelet, &app).unwrap(), first);
    let (old, said) = run("by-tag", &app).unwrap();
    assert_eq!(said, log("one"));
    let about = kubelet.container_status(&old).unwrap();
    assert_eq!((about.image_ref.as_str(), about.image.unwrap().image), (by_digest.as_str(), app.clone()));

    // The tag moves. Who pulls always gets the new one; what runs goes on; the old one is still found by its names.
    registry.push(&env, "tests/app", "v", &config("two"));
    assert_eq!(run("as-present", &app).unwrap().1, log("one"));
    let second = pull(&kubelet, &app).unwrap();
    assert_ne!(second, first);
    assert_eq!(run("moved", &app).unwrap().1, log("two"));
    assert_eq!(run("by-digest", &by_digest).unwrap().1, log("one"));
    assert_eq!(run("by-id", &first).unwrap().1, log("one"));
    assert_eq!(kubelet.inside(&old, "echo $VERSION"), "one\n");

    // Without its registry nothing is pulled, and what is there runs.
    drop(registry);
    pull(&kubelet, &app).expect_err("nobody answers");
    assert_eq!(run("present", &app).unwrap().1, log("two"));

    let listed: ListImagesResponse =
        kubelet.images("ListImages", ListImagesRequest { filter: None }).expect("a list");
    for id in [&first, &second] {
        assert_eq!(listed.images.iter().filter(|image| image.id == **id).count(), 1);
    }
    let used: ImageFsInfoResponse = kubelet.images("ImageFsInfo", ImageFsInfoRequest {}).expect("figures");
    let [used] = &used.image_filesystems[..] else { panic!("{used:?}") };
    let place = used.fs_id.as_ref().expect("a place").mountpoint.clone();
    assert!(place.starts_with(&kubelet.containerd.dir().display().to_string()), "{place}");
    kubelet.containerd.wait_for("figures of images", || {
        let answer = kubelet.images("ImageFsInfo", ImageFsInfoRequest {});
        answer.is_ok_and(|answer: ImageFsInfoResponse| {
            let used = answer.image_filesystems[0].used_bytes.as_ref();
            used.is_some_and(|used| used.value > 1_000_000)
        })
    });

    // Removed under a container that runs: it goes on, and no other begins.
    remove(&kubelet, &first);
    assert_eq!((status(&kubelet, &first), status(&kubelet, &by_digest)), (None, None));
    assert_eq!(kubelet.inside(&old, "echo $VERSION; ls /bin | wc -l").lines().next(), Some("one"));
    assert_eq!(run("removed", &by_digest).unwrap_err().code(), Code::NotFound);
    remove(&kubelet, &app);
    remove(&kubelet, &app);
    assert_eq!(status(&kubelet, &app), None);
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn pods_run_what_the_installed_containerd_has_pulled() {
    pods_run_what_was_pulled("", KATA);
}

#[test]
fn pods_run_what_containerd_1_7_has_pulled() {
    pods_run_what_was_pulled("1.7", KATA);
}

#[test]
fn pods_run_what_containerd_2_has_pulled() {
    pods_run_what_was_pulled("2", KATA);
}

#[test]
fn the_reference_runs_what_was_pulled() {
    pods_run_what_was_pulled("", RUNC);
}
