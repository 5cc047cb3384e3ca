//! Events of members: they joined, left, returned or changed their announcement.

use std::collections::BTreeSet;

use super::{Kind, News, Severity, counted, named};
use crate::cluster::state::{Announcement, Member, MemberStatus, ReplicaRole};
use crate::id::NodeId;

/// Maximum of members with an event each for the same fact; of more, one event has all.
const REPORTED_MAX: usize = 5;

impl News<'_> {
    pub(super) fn members(&mut self) {
        self.joined();
        self.declared_down();
        self.came_back();
        self.drained();
        self.changed();
        self.left();
    }

    fn joined(&mut self) {
        let joined = self.new.members.keys().filter(|node| !self.old.members.contains_key(node)).copied();
        self.each(Severity::Info, joined.collect(), "joined", |news, node| {
            let Some(Member { announcement, .. }) = news.new.member(node) else {
                return String::new();
            };
            // An address without a host means every address of the node.
            let at = match announcement.client_addr.strip_prefix(':') {
                Some(port) => format!("port {port}"),
                None => announcement.client_addr.clone(),
            };
            let mut message = format!("node {} joined: clients at {at}", node.short());
            match announcement.weight {
                0 => message.push_str(", a witness that holds no data"),
                weight => message.push_str(&format!(", weight {weight}")),
            }
            if !announcement.zone.is_empty() {
                message.push_str(&format!(", zone '{}'", announcement.zone));
            }
            message
        });
    }

    fn declared_down(&mut self) {
        let down = self.known(|old, new| is_up(old) && !is_up(new));
        self.each(Severity::Warning, down, "were declared down", |news, node| {
            let held = counted(news.new.replicas_on(node).count() as u32, "copy");
            format!(
                "node {} was declared down: its lease expired, or it announced its stop. Its {held} wait for \
                 its return",
                node.short()
            )
        });
    }

    fn came_back(&mut self) {
        let newer = |old: &Member, new: &Member| {
            is_up(new) && new.announcement.incarnation > old.announcement.incarnation
        };
        let returned = self.known(|old, new| newer(old, new) && !is_up(old));
        let restarted = self.known(|old, new| newer(old, new) && is_up(old));
        for (nodes, what) in [(returned, "returned"), (restarted, "restarted before they were declared down")]
        {
            self.each(Severity::Info, nodes, what, |news, node| {
                let syncing = news.new.replicas_on(node).filter(|(_, r)| r.role == ReplicaRole::Syncing);
                let behind = counted(syncing.count() as u32, "copy");
                let incarnation = news.new.member(node).map_or(0, |member| member.announcement.incarnation);
                let what = what.replace("they were", "it was");
                format!("node {} {what}: incarnation {incarnation}, {behind} to catch up", node.short())
            });
        }
    }

    fn drained(&mut self) {
        let goes = |from: bool| {
            move |old: &Member, new: &Member| is_up(new) && old.draining == from && new.draining != from
        };
        let (begun, ended) = (self.known(goes(false)), self.known(goes(true)));
        self.each(Severity::Info, begun, "are drained", |_, node| {
            format!("node {} is drained: it hands its partitions over and keeps its copies", node.short())
        });
        self.each(Severity::Info, ended, "are not drained any more", |_, node| {
            format!("node {} is not drained any more", node.short())
        });
    }

    fn changed(&mut self) {
        let changed = self.known(|old, new| !differences(&old.announcement, &new.announcement).is_empty());
        self.each(Severity::Info, changed, "changed their announcements", |news, node| {
            let announced = |member: &Member| member.announcement.clone();
            let (old, new) = (news.old.member(node).map(announced), news.new.member(node).map(announced));
            let differences = old.zip(new).map(|(old, new)| differences(&old, &new)).unwrap_or_default();
            format!("node {} changed its {}", node.short(), differences.join(", its "))
        });
    }

    fn left(&mut self) {
        let left = self.old.members.keys().filter(|node| !self.new.members.contains_key(node)).copied();
        self.each(Severity::Info, left.collect(), "left", |_, node| format!("node {} left", node.short()));
    }

    /// Returns the nodes that were members before and for which `holds` is true.
    fn known(&self, holds: impl Fn(&Member, &Member) -> bool) -> BTreeSet<NodeId> {
        let known = self.new.members.iter();
        known
            .filter(|(node, new)| self.old.member(**node).is_some_and(|old| holds(old, new)))
            .map(|(node, _)| *node)
            .collect()
    }

    /// Adds one event per node, or one event for all if there are more than `REPORTED_MAX`.
    fn each(
        &mut self,
        severity: Severity,
        nodes: BTreeSet<NodeId>,
        happened_to_many: &str,
        one: impl Fn(&Self, NodeId) -> String,
    ) {
        if nodes.len() > REPORTED_MAX {
            return self.report(
                severity,
                Kind::Member,
                None,
                format!("{} {happened_to_many}", named(&nodes)),
            );
        }
        for node in nodes {
            let message = one(self, node);
            self.report(severity, Kind::Member, Some(node), message);
        }
    }
}

fn is_up(member: &Member) -> bool {
    member.status == MemberStatus::Up
}

/// Returns the differences between two announcements, without the incarnation.
fn differences(old: &Announcement, new: &Announcement) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, old: &str, new: &str| {
        if old != new {
            differences.push(format!("{what} from '{old}' to '{new}'"));
        }
    };
    compare("weight", &old.weight.to_string(), &new.weight.to_string());
    compare("zone", &old.zone, &new.zone);
    compare("client address", &old.client_addr, &new.client_addr);
    compare("peer addresses", &old.peer_addrs.join(" "), &new.peer_addrs.join(" "));
    compare("build", &old.build, &new.build);
    differences
}
