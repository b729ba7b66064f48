//! Which of a VM's ports hold which device. A port whose device does not go stays taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::{
    error::{Error, Result},
    vm::PORTS,
};
use serde_json::Value;

/// The ports of one VM.
#[derive(Debug)]
pub(crate) struct Ports(Mutex<[Option<String>; PORTS]>);

impl Ports {
    /// With these devices in the first ones.
    pub(crate) fn new(devices: &[Value]) -> Self {
        let mut ports = [const { None }; PORTS];
        for (port, device) in ports.iter_mut().zip(devices) {
            *port = device["id"].as_str().map(str::to_owned);
        }
        Self(Mutex::new(ports))
    }

    /// Takes an empty port for the device `id`.
    pub(crate) fn take(&self, id: &str) -> Result<usize> {
        let mut ports = self.lock();
        let free = ports.iter().position(Option::is_none).ok_or_else(|| {
            Error::precondition(format!(
                "all {PORTS} ports of the VM hold a device: it takes no more of them"
            ))
        })?;
        ports[free] = Some(id.to_owned());
        Ok(free)
    }

    /// The device `id` is gone.
    pub(crate) fn free(&self, id: &str) {
        for port in self.lock().iter_mut() {
            port.take_if(|holds| holds == id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Option<String>; PORTS]> {
        // Every user leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_taken_once_and_can_be_taken_again_when_its_device_is_gone() {
        let ports = Ports::new(&[json!({ "id": "fs" }), json!({ "id": "nic0" })]);
        assert_eq!(ports.take("nic1").unwrap(), 2);
        ports.free("nic0");
        ports.free("nobody");
        assert_eq!(ports.take("nic2").unwrap(), 1);
        for other in 3..PORTS {
            assert_eq!(ports.take("other").unwrap(), other);
        }
        assert!(ports.take("more").unwrap_err().to_string().contains("31 ports"));
    }
}
