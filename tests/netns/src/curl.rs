//! Asking by curl.

use crate::Mesh;

impl Mesh {
    /// Whether curl in `pod` did what it was told, and all that it printed.
    pub fn curl(&self, pod: &str, words: &[&str]) -> (bool, String) {
        let argv = [&["curl", "--silent", "--show-error", "--max-time", "20"], words].concat();
        let output = self.exec(pod, &argv).unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    /// What curl prints that has an answer.
    pub fn fetched(&self, pod: &str, words: &[&str]) -> String {
        let (done, text) = self.curl(pod, words);
        assert!(done, "{words:?} in {pod}: {text}");
        text
    }

    /// The answer's status.
    pub fn status_of(&self, pod: &str, words: &[&str]) -> String {
        self.fetched(pod, &[&["--output", "/dev/null", "--write-out", "%{http_code}"], words].concat())
    }
}
