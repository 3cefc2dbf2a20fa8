//! Who is still missing when the faults end.
//!
//! Consensus promises to work as long as a majority does, so on most seeds the faults end with a minority that is dead, cut off, or stands still: the
//! others must take writes and end all accepted work without it. Only then does the rest come back, and must catch up. Where the members may have
//! changed, nobody can say from outside what a minority is: there everybody comes back at once.

use tarn_raft::NodeId;

use crate::cuts::users;
use crate::dice::Dice;
use crate::plan::{Left, Plan};
use crate::world::{Failure, World};

/// Chooses a minority of the founders, if any is to be missing, and how.
pub fn choose(world: &World) -> Option<(Left, Vec<NodeId>, Dice)> {
    let plan: &Plan = &world.plan;
    let how = plan.left.filter(|_| !world.watcher.members_changed())?;
    let mut dice = Dice::new(plan.seed, "left behind");
    let mut ids: Vec<NodeId> = world.hosts.keys().copied().collect();
    dice.shuffle(&mut ids);
    let most = (ids.len().saturating_sub(1) / 2) as u64;
    if most == 0 {
        return None;
    }
    ids.truncate(usize::try_from(dice.between(1, most)).expect("a minority is small"));
    ids.sort_unstable();
    Some((how, ids, dice))
}

/// Leaves a node out, after everything else was put right. It has a process then, unless it is to be dead or was down before.
///
/// # Errors
///
/// The real disk fails.
pub fn leave(world: &mut World, id: NodeId, how: Left, dice: &mut Dice) -> Result<(), Failure> {
    world.trace.note(format!("node {id} is left behind: {how:?}"));
    let host = world.hosts.get_mut(&id).expect("it is one of the nodes");
    match how {
        Left::Dead => {
            if dice.percent(50) {
                host.cut_power()?;
            }
            host.kill();
        }
        Left::Paused => {
            host.pause();
        }
        Left::CutOff => {
            let unreachable = dice.percent(50);
            let users = users(&world.plan).into_iter().filter(|_| unreachable);
            for other in world.hosts.keys().copied().filter(|other| *other != id).chain(users) {
                world.net.change(id, other, |quality| quality.cut = true);
                world.net.change(other, id, |quality| quality.cut = true);
            }
        }
    }
    Ok(())
}
