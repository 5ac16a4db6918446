//! One image in the layout of the OCI image specification (image-layout.md, 1.0), as a tar file.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tar::Tar;
use crate::workspace;

/// An image of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// As manifests name it: registry, path and tag.
    pub(crate) name: String,
    /// What its container runs.
    pub(crate) entrypoint: Vec<String>,
    /// `user:group` by number; empty for root.
    pub(crate) user: String,
    /// Variables as `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    pub(crate) files: Vec<File>,
}

/// A file of an image. The folders above it come by themselves.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Without the slash at its beginning.
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) content: Vec<u8>,
}

impl Image {
    /// Writes the tar file and returns the digest of the image's manifest.
    pub(crate) fn write(&self, to: &Path) -> Result<String> {
        let (bytes, digest) = self.archive().with_context(|| format!("image {}", self.name))?;
        workspace::write_atomically(to, &bytes)?;
        Ok(digest)
    }

    fn archive(&self) -> Result<(Vec<u8>, String)> {
        let layer = Blob::new(self.layer()?);
        let config = Blob::json(&self.config(&layer))?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }))?;
        let mut described = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        described["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag });
        described["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        });
        // For engines that know their own format only.
        let old = json!([{ "Config": config.path(), "RepoTags": [self.name], "Layers": [layer.path()] }]);

        let mut tar = Tar::default();
        tar.folder("blobs", 0o755)?;
        tar.folder("blobs/sha256", 0o755)?;
        let mut blobs = [&config, &layer, &manifest];
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        for blob in blobs {
            tar.file(&blob.path(), 0o644, &blob.content)?;
        }
        tar.file("index.json", 0o644, &serde_json::to_vec(&index)?)?;
        tar.file("manifest.json", 0o644, &serde_json::to_vec(&old)?)?;
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok((tar.finish(), format!("sha256:{}", manifest.digest)))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut files: Vec<&File> = self.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut tar = Tar::default();
        let mut folders = BTreeSet::new();
        for file in files {
            for (at, _) in file.path.match_indices('/') {
                let folder = &file.path[..at];
                if folders.insert(folder) {
                    tar.folder(folder, 0o755)?;
                }
            }
            tar.file(&file.path, file.mode, &file.content)?;
        }
        // Programs expect it; whoever owns the process may write there.
        if !folders.contains("tmp") {
            tar.folder("tmp", 0o1777)?;
        }
        Ok(tar.finish())
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user,
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
        })
    }
}

struct Blob {
    content: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        Self { digest: format!("{:x}", Sha256::digest(&content)), content }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.content.len() })
    }
}

/// This machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl File {
    /// A program of this machine, with mode 755.
    pub(crate) fn program(path: &str, from: &Path) -> Result<Self> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        Ok(Self { path: path.to_owned(), mode: 0o755, content })
    }

    /// A file with mode 644.
    pub(crate) fn text(path: &str, content: &str) -> Self {
        Self { path: path.to_owned(), mode: 0o644, content: content.as_bytes().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            name: "keelson.test/x:1".to_owned(),
            entrypoint: vec!["/bin/x".to_owned()],
            user: String::new(),
            environment: Vec::new(),
            files: vec![File::text("etc/passwd", "root"), File::text("bin/x", "x")],
        }
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let mut turned = image();
        turned.files.reverse();
        assert_eq!(image().archive().unwrap(), turned.archive().unwrap());
        let other = Image { user: "1:1".to_owned(), ..image() };
        assert_ne!(image().archive().unwrap().1, other.archive().unwrap().1);
    }

    #[test]
    fn every_digest_is_that_of_its_blob() {
        let (bytes, digest) = image().archive().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("image.tar"), bytes).unwrap();
        let mut tar = std::process::Command::new("tar");
        workspace::run(tar.current_dir(folder.path()).args(["-xf", "image.tar"])).unwrap();
        let json = |path: &str| -> Value { serde_json::from_slice(&fs::read(folder.path().join(path)).unwrap()).unwrap() };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            let content = fs::read(folder.path().join("blobs/sha256").join(&digest)).unwrap();
            assert_eq!(format!("{:x}", Sha256::digest(&content)), digest);
            assert_eq!(descriptor["size"].as_u64().unwrap(), content.len() as u64);
            content
        };
        let described = &json("index.json")["manifests"][0];
        assert_eq!(described["digest"].as_str().unwrap(), digest);
        assert_eq!(described["annotations"]["io.containerd.image.name"], "keelson.test/x:1");
        let manifest: Value = serde_json::from_slice(&blob(described)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    }
}
