//! `istio.workload.Address`: a workload or a service.

use mesh_policy::model;

use super::error::{At, Cause, ConvertError};
use crate::workload::{self as wire, address::Type};

/// One resource of the Address type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressResource {
    Workload(Box<model::Workload>),
    Service(Box<model::Service>),
}

impl TryFrom<wire::Address> for AddressResource {
    type Error = ConvertError;

    fn try_from(address: wire::Address) -> Result<Self, Self::Error> {
        match address.r#type {
            Some(Type::Workload(workload)) => Ok(Self::Workload(Box::new(workload.try_into()?))),
            Some(Type::Service(service)) => Ok(Self::Service(Box::new(service.try_into()?))),
            None => Err(At { kind: "Address", name: "" }.refuse("type", Cause::EnumValue { value: 0 })),
        }
    }
}

impl From<&model::Workload> for wire::Address {
    fn from(workload: &model::Workload) -> Self {
        Self { r#type: Some(Type::Workload(workload.into())) }
    }
}

impl From<&model::Service> for wire::Address {
    fn from(service: &model::Service) -> Self {
        Self { r#type: Some(Type::Service(service.into())) }
    }
}
