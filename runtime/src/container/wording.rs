//! Errors of the guest in the words of the one who wrote the spec.

use oci_spec::runtime::Mount;

use crate::error::Error;

/// Of a container with these mounts in its spec, and what the guest was given for each: it names them by their places in
/// the share.
pub fn in_the_specs_words(error: Error, spec: &[Mount], given: &[Mount]) -> Error {
    let text = error.to_string();
    let pairs = spec.iter().zip(given).filter_map(|(of_spec, given)| {
        let (of_spec, given) = (of_spec.source().as_ref()?, given.source().as_ref()?);
        (of_spec != given).then(|| (format!("{given:?}"), format!("{of_spec:?}")))
    });
    let renamed = pairs.fold(text.clone(), |text, (given, of_spec)| text.replace(&given, &of_spec));
    if renamed == text { error } else { Error::new(error.kind(), renamed) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_in_the_share_are_what_the_spec_names() {
        let mounts = |sources: &[&str]| -> Vec<Mount> {
            let mount = |source| json!({"destination": "/x", "source": source});
            sources.iter().map(|source| serde_json::from_value(mount(source)).unwrap()).collect()
        };
        let (spec, given) = (mounts(&["/a b", "tmpfs"]), mounts(&["/share/a", "tmpfs"]));
        let told = |text: &str| in_the_specs_words(Error::invalid(text), &spec, &given).to_string();
        assert_eq!(told("error mounting \"/share/a\" at \"/x\""), "error mounting \"/a b\" at \"/x\"");
        assert_eq!(told("another \"/share/ab\""), "another \"/share/ab\"");
    }
}
