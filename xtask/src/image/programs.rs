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
    /// Further programs in its image.
    pub(super) beside: &'static [Beside],
}

/// A program that another one's image brings along.
pub(crate) struct Beside {
    pub(super) package: &'static str,
    pub(super) program: &'static str,
}

/// The node installs it on its host.
const CNI: Beside = Beside { package: "mesh-cni", program: "keelson-cni" };

/// Every program that is an image.
pub(crate) const fn ours() -> &'static [Ours] {
    &[
        Ours { name: "mesh-node", root: true, beside: &[CNI] },
        Ours { name: "mesh-controller", root: false, beside: &[] },
        Ours { name: "meshctl", root: false, beside: &[] },
        Ours { name: "shop", root: false, beside: &[] },
    ]
}

/// The name of an image as manifests have it.
pub(crate) fn reference(program: &str, tag: &str) -> String {
    format!("{HUB}/{program}:{tag}")
}

impl Ours {
    /// The image of this program as it lies in `folder`.
    pub(super) fn image(&self, folder: &Path, tag: &str) -> Result<Image> {
        let program = |name: &str| File::program(&format!("usr/local/bin/{name}"), &folder.join(name));
        let mut files = vec![
            program(self.name)?,
            File::text("etc/passwd", "root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n"),
            File::text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
            // Names are looked up in files first, then by DNS.
            File::text("etc/nsswitch.conf", "hosts: files dns\n"),
        ];
        for beside in self.beside {
            files.push(program(beside.program)?);
        }
        Ok(Image {
            name: reference(self.name, tag),
            entrypoint: vec![self.name.to_owned()],
            user: if self.root { "0:0" } else { "65532:65532" }.to_owned(),
            environment: vec!["PATH=/usr/local/bin".to_owned()],
            files,
        })
    }
}
