//! Files of Kubernetes objects: text to documents, to objects, to the model. The input is a YAML file.

use std::collections::BTreeSet;

use mesh_config::{
    document::{Format, Limits, documents},
    kinds::Objects,
    translate::{Settings, translate},
    validate::{Verdict, admit, key_of},
};
use serde_json::Value;

use crate::wire;

/// YAML and JSON are read alike, the same objects give the same model, and nodes take every resource of it.
pub(crate) fn check(input: &[u8]) {
    let Ok(found) = documents(input, Format::Yaml, Limits::default()) else { return };
    let mut objects = Objects::default();
    for document in &found {
        let json = serde_json::to_vec(document).expect("values are JSON");
        assert_eq!(documents(&json, Format::Json, Limits::default()).as_deref(), Ok(&[document.clone()][..]));
        take(document, &mut objects);
    }
    let settings = Settings::default();
    let captured: BTreeSet<_> = objects.pods.keys().map(|name| settings.pod_uid(&name.namespace, &name.name)).collect();
    let translation = translate(&objects, &settings, &captured);
    wire::survives(&translation.model);
    let again = translate(&objects, &settings, &captured);
    assert_eq!(again.messages, translation.messages);
    assert_eq!(again.model.workloads, translation.model.workloads);
}

fn take(document: &Value, objects: &mut Objects) {
    match admit(document) {
        Verdict::Admitted(admitted) => {
            assert_eq!(key_of(document).as_ref(), Some(&admitted.key));
            objects.insert(admitted.key.name, admitted.object);
        }
        Verdict::Rejected(rejection) => {
            assert!(!rejection.problems.is_empty());
            assert!(!rejection.to_string().is_empty());
        }
        Verdict::Ignored(_) => assert_eq!(key_of(document), None),
    }
}
