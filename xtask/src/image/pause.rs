//! The image that holds a pod's namespaces on nodes of the test cluster.

use std::path::Path;

use anyhow::Result;

use super::{File, HUB, Image};

/// As containerd's configuration names it.
pub(crate) const NAME: &str = "keelson.test/pause:1";

/// Of the program that was built for it.
pub(crate) fn image(program: &Path) -> Result<Image> {
    debug_assert!(NAME.starts_with(HUB));
    Ok(Image {
        name: NAME.to_owned(),
        entrypoint: vec!["/pause".to_owned()],
        user: "65532:65532".to_owned(),
        environment: Vec::new(),
        files: vec![File::program("pause", program)?],
    })
}
