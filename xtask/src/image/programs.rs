//! Which of our programs are images, and what is in them.

use std::path::Path;

use anyhow::Result;

use super::{File, Image};

/// The registry that our images are named by: one that can not exist (RFC 6761), so that nobody ever asks it.
pub(crate) const HUB: &str = "keelson.test";

/// A program that is an image.
pub(crate) struct Ours {
    /// Its own name, that of its package and that of its image.
    pub(crate) name: &'static str,
    /// The node's needs root: it loads kernel programs and enters namespaces. Nobody else does.
    root: bool,
}

/// Every program that is an image.
pub(crate) const fn ours() -> &'static [Ours] {
    &[
        Ours { name: "mesh-node", root: true },
        Ours { name: "mesh-controller", root: false },
        Ours { name: "meshctl", root: false },
        Ours { name: "shop", root: false },
    ]
}

/// The name of an image as manifests have it.
pub(crate) fn reference(program: &str, tag: &str) -> String {
    format!("{HUB}/{program}:{tag}")
}

impl Ours {
    /// The image of this program as it lies in `folder`.
    pub(super) fn image(&self, folder: &Path, tag: &str) -> Result<Image> {
        let passwd = "root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n";
        Ok(Image {
            name: reference(self.name, tag),
            entrypoint: vec![self.name.to_owned()],
            user: if self.root { "0:0" } else { "65532:65532" }.to_owned(),
            environment: vec!["PATH=/usr/local/bin".to_owned()],
            files: vec![
                File::program(&format!("usr/local/bin/{}", self.name), &folder.join(self.name))?,
                File::text("etc/passwd", passwd),
                File::text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
                // Names are looked up in files first, then by DNS.
                File::text("etc/nsswitch.conf", "hosts: files dns\n"),
            ],
        })
    }
}
