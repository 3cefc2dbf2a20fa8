//! Keys, configuration and places: what a node needs before its first start.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::net::Place;
use super::{Build, Cluster, Disk, Node, text};
use crate::disk::FaultyDisk;

impl Cluster {
    /// Makes the first voters.
    pub(super) fn found(&self) -> Result<()> {
        let places = (0..self.options.nodes).map(|_| self.net.place()).collect::<Result<Vec<_>>>()?;
        let members: Vec<String> = places.iter().zip(1u64..).map(|(place, id)| format!("\"{id}={}\"", place.advertise)).collect();
        let bootstrap = format!("cluster.bootstrap = [{}]", members.join(", "));
        for (place, id) in places.into_iter().zip(1..) {
            self.issue_key(id)?;
            self.settle(id, place, Some(&bootstrap))?;
        }
        Ok(())
    }

    /// Gives a node its place and its configuration.
    pub(super) fn settle(&self, id: u64, place: Place, bootstrap: Option<&str>) -> Result<()> {
        self.write_config(id, &place, bootstrap)?;
        self.net.name(&place, id);
        let disk = match self.options.disk {
            Disk::Plain => None,
            Disk::Fuse => Some(Arc::new(FaultyDisk::mount(&self.home(id), &self.data_dir(id))?)),
        };
        let node = Node { place, process: None, disk, build: Build::Current, leaving: false, removed: false };
        ensure!(self.nodes().insert(id, node).is_none(), "the cluster gave out the id {id} although there was a node {id} before");
        Ok(())
    }

    pub(super) fn issue_key(&self, id: u64) -> Result<()> {
        let (ca, data) = (text(&self.ca_dir()), text(&self.home(id)));
        self.tarn(&["ca", "issue", "--ca", &ca, "--node", &id.to_string(), "--data-dir", &data]).map(drop)
    }

    fn write_config(&self, id: u64, place: &Place, bootstrap: Option<&str>) -> Result<()> {
        let mut lines = vec![
            format!("node.data_dir = {:?}", text(&self.data_dir(id))),
            format!("listen.bind = \"{}\"", place.bind),
            format!("listen.advertise = \"{}\"", place.advertise),
            format!("listen.ops_bind = \"{}\"", place.ops),
            "listen.https_bind = \"off\"".to_owned(),
            format!("identity.ca_dir = {:?}", text(&self.ca_dir())),
        ];
        lines.extend(place.source.map(|source| format!("network.source_address = \"{source}\"")));
        lines.extend(bootstrap.map(str::to_owned));
        if let Some(part) = self.part() {
            let (bind, advertise) = part.wires.gateway(place, part.number)?;
            lines.extend([format!("federation.bind = \"{bind}\""), format!("federation.advertise = \"{advertise}\"")]);
        }
        lines.extend(self.options.settings.iter().map(|(key, value)| format!("{key} = {value}")));
        let path = self.config(id);
        fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Where a node's files are put before its disk is mounted.
    pub(super) fn home(&self, id: u64) -> PathBuf {
        match self.options.disk {
            Disk::Plain => self.data_dir(id),
            Disk::Fuse => self.dir().join(format!("disk-{id}")),
        }
    }

    pub(super) fn ca_dir(&self) -> PathBuf {
        self.dir().join("ca")
    }

    pub(super) fn config(&self, id: u64) -> PathBuf {
        self.dir().join(format!("node-{id}.toml"))
    }
}
