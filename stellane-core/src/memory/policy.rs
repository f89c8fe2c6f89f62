//! Who reads on and who is ended when memory is scarce: functions of what each upload holds.

use std::collections::HashMap;
#[cfg(feature = "preset")]
use std::num::NonZeroU64;

/// One upload, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upload {
    /// In the order in which they began.
    pub(super) id: u64,
    pub(super) owner: Owner,
    /// Bytes that it holds.
    pub(super) held: u64,
    /// Bytes that are still to come, if its client has said so.
    pub(super) left: Option<u64>,
    /// What its next piece may take.
    pub(super) next: u64,
    /// It keeps nothing of what it reads.
    pub(super) consumes: bool,
    pub(super) stage: Stage,
    /// Looks for which it has waited.
    pub(super) waited: u32,
}

/// Whose an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// As somebody has said.
    Named(u64),
    /// Who has this address.
    #[cfg(feature = "preset")]
    Client(NonZeroU64),
    /// Who may share its address with many.
    #[cfg(feature = "preset")]
    Connection(u64),
    /// Nobody else's.
    Request(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was not asked to wait.
    Reads,
    /// Its client has sent nothing since somebody looked, or so little that nobody should wait for its end.
    Starves,
    /// It waits to read on.
    Waits,
    /// It reads on, and bytes are kept for it.
    Goes,
    /// It is whole, and its handler works.
    Whole,
    /// It was ended, and has not gone yet.
    Leaves,
}

/// All uploads that hold more than a little, and what they share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) budget: u64,
    pub(super) held: u64,
    /// What is left, and kept for nobody.
    pub(super) room: u64,
    /// The process has little memory left, for reasons that are not counted here.
    pub(super) squeezed: bool,
    /// What others than the uploads hold, who may give it back at any time.
    pub(super) others: u64,
    pub(super) uploads: &'a [Upload],
}

/// What is to become of those that wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// They read on; so much is kept for each.
    pub(super) go: Vec<(u64, u64)>,
    pub(super) end: Vec<u64>,
}

/// For so many looks, ten seconds, an upload waits for what others hold before one is ended.
const PATIENCE: u32 = 20;

/// From this part of a budget on uploads wait for each other.
pub(super) fn near(budget: u64) -> u64 {
    budget / 4 * 3
}

/// What an upload may hold without waiting, while there is anything left.
pub(super) fn allowance(budget: u64, uploads: usize) -> u64 {
    (budget / 4 / uploads.max(1) as u64).clamp(4 << 10, 64 << 10)
}

impl Upload {
    /// What is kept for its next piece, if it holds next to nothing and there is room: but for those that keep nothing, the
    /// last eighth is for those that come to their end.
    pub(super) fn piece_at_once(&self, allowance: u64, budget: u64, room: u64) -> Option<u64> {
        let aside = if self.consumes { 0 } else { budget / 8 };
        let goes = self.held <= allowance && self.next.saturating_add(aside) <= room;
        goes.then_some(self.next)
    }
}

impl Scene<'_> {
    fn allowance(&self) -> u64 {
        allowance(self.budget, self.uploads.len())
    }

    /// Whether bytes will come back without anybody else reading on.
    fn moves(&self) -> bool {
        self.uploads.iter().any(|upload| match upload.stage {
            Stage::Goes => true,
            Stage::Reads => upload.held > self.allowance(),
            Stage::Whole | Stage::Leaves => upload.held > 0,
            Stage::Starves | Stage::Waits => false,
        })
    }

    /// Whether one of these could go on if others gave back what they hold, and none has waited for that for long.
    fn may_go_on(&self, room: u64, waiting: &[&Upload]) -> bool {
        let with_others = room.saturating_add(self.others);
        let fits = |upload: &&Upload| upload.left.unwrap_or(upload.next) <= with_others;
        let has_patience = |upload: &&Upload| upload.waited < PATIENCE;
        self.others > 0 && waiting.iter().any(fits) && waiting.iter().all(has_patience)
    }

    /// Who needs least to be whole comes first: so most come to their end.
    pub(super) fn decide(&self) -> Decision {
        let mut waiting: Vec<_> = self
            .uploads
            .iter()
            .filter(|upload| upload.stage == Stage::Waits)
            .collect();
        waiting.sort_by_key(|upload| (upload.left.unwrap_or(u64::MAX), upload.id));
        let mut decision = Decision::default();
        let mut room = self.room;
        let allowance = self.allowance();
        for upload in &waiting {
            let piece = upload.piece_at_once(allowance, self.budget, room);
            let rest = upload.left.filter(|left| *left <= room && !self.squeezed);
            if let Some(kept) = piece.or(rest) {
                room -= kept;
                decision.go.push((upload.id, kept));
            }
        }
        if !decision.go.is_empty() || waiting.is_empty() || self.moves() {
            return decision;
        }
        // How long it is is not known: as far as there is room. Where others take the memory, one by one.
        let of_unknown_length = waiting.iter().find(|upload| upload.left.is_none());
        let has_room = waiting[0].left.is_some_and(|left| left <= room);
        if self.squeezed && (has_room || self.held < near(self.budget)) {
            let rest = waiting[0].left.unwrap_or(waiting[0].next);
            decision.go = vec![(waiting[0].id, rest)];
        } else if self.held < near(self.budget) {
            // None can be whole, and there is no need yet.
            decision.go = waiting.iter().map(|one| (one.id, one.next)).collect();
        } else if let Some(upload) = of_unknown_length
            && room > 0
        {
            decision.go = vec![(upload.id, room)];
        } else {
            let largest = self.largest(room, &waiting);
            if largest.is_empty() {
                // They hold next to nothing: it is others that fill the budget.
                decision.go = vec![(waiting[0].id, waiting[0].next)];
            } else if !self.may_go_on(room, &waiting) {
                decision.end = largest;
            }
        }
        decision
    }

    /// Of the owner of most the largest, and so on, until there is room for another, or half of all.
    fn largest(&self, mut room: u64, waiting: &[&Upload]) -> Vec<u64> {
        let mut of_owner: HashMap<Owner, u64> = HashMap::new();
        let mut candidates = Vec::new();
        for upload in self.uploads {
            match upload.stage {
                Stage::Leaves => continue,
                Stage::Waits | Stage::Starves if upload.held > self.allowance() => {
                    candidates.push(upload);
                }
                _ => {}
            }
            *of_owner.entry(upload.owner).or_default() += upload.held;
        }
        let mut ended = Vec::new();
        while let Some(at) = (0..candidates.len()).max_by_key(|at| {
            let upload = candidates[*at];
            (of_owner[&upload.owner], upload.held, upload.id)
        }) {
            let upload = candidates.swap_remove(at);
            ended.push(upload.id);
            room += upload.held;
            if let Some(held) = of_owner.get_mut(&upload.owner) {
                *held -= upload.held;
            }
            let fits = |other: &&Upload| {
                let left = other.left.is_some_and(|left| left <= room);
                left && !ended.contains(&other.id)
            };
            if room >= self.budget / 2 || waiting.iter().any(fits) {
                break;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Stage::{Goes, Leaves, Reads, Starves, Waits, Whole},
        *,
    };

    const MIB: u64 = 1 << 20;

    fn upload(id: u64, held: u64, left: Option<u64>, stage: Stage) -> Upload {
        Upload {
            id,
            owner: Owner::Request(id),
            held: held * MIB,
            left: left.map(|left| left * MIB),
            next: MIB,
            consumes: false,
            stage,
            waited: 0,
        }
    }

    /// Of a budget of 100 MiB, all that is held by them.
    fn decide(uploads: &[Upload]) -> Decision {
        decide_with(uploads, 0, false)
    }

    fn decide_with(uploads: &[Upload], others: u64, squeezed: bool) -> Decision {
        let held = uploads.iter().map(|upload| upload.held).sum::<u64>() + others * MIB;
        let kept = uploads.iter().filter(|upload| upload.stage == Goes);
        let kept = kept.map(|upload| upload.left.unwrap_or(0)).sum::<u64>();
        let scene = Scene {
            budget: 100 * MIB,
            held,
            room: (100 * MIB).saturating_sub(held + kept),
            squeezed,
            others: others * MIB,
            uploads,
        };
        scene.decide()
    }

    fn go(who: &[(u64, u64)]) -> Decision {
        Decision {
            go: who.iter().map(|(id, kept)| (*id, kept * MIB)).collect(),
            end: Vec::new(),
        }
    }

    fn end(who: &[u64]) -> Decision {
        Decision {
            go: Vec::new(),
            end: who.to_vec(),
        }
    }

    #[test]
    fn those_go_on_for_which_there_is_room_to_their_end_and_the_shortest_first() {
        for (uploads, expected) in [
            (&[][..], go(&[])),
            (
                &[
                    upload(1, 40, Some(30), Waits),
                    upload(2, 40, Some(12), Waits),
                ],
                go(&[(2, 12)]),
            ),
            (
                &[
                    upload(1, 40, Some(8), Waits),
                    upload(2, 40, Some(12), Waits),
                ],
                go(&[(1, 8), (2, 12)]),
            ),
            // What is kept for one is not given to another.
            (
                &[upload(1, 40, Some(12), Goes), upload(2, 40, Some(9), Waits)],
                go(&[]),
            ),
            // Who waits for a handler that works, or for one that leaves, loses nothing.
            (
                &[upload(1, 80, None, Whole), upload(2, 10, Some(30), Waits)],
                go(&[]),
            ),
            (
                &[upload(1, 80, None, Leaves), upload(2, 10, Some(30), Waits)],
                go(&[]),
            ),
            (
                &[
                    upload(1, 80, Some(9), Reads),
                    upload(2, 10, Some(30), Waits),
                ],
                go(&[]),
            ),
            // How long it is is not known: as far as it goes.
            (
                &[upload(1, 40, Some(99), Waits), upload(2, 40, None, Waits)],
                go(&[(2, 20)]),
            ),
        ] {
            assert_eq!(decide(uploads), expected, "{uploads:?}");
        }
    }

    #[test]
    fn the_largest_is_ended_when_nobody_can_become_whole() {
        for (uploads, expected) in [
            (
                &[
                    upload(1, 50, Some(50), Waits),
                    upload(2, 40, Some(60), Waits),
                ][..],
                end(&[1]),
            ),
            // One that could never be.
            (&[upload(1, 90, Some(30), Waits)], end(&[1])),
            (&[upload(1, 100, None, Waits)], end(&[1])),
            // It holds much, and its client sends nothing.
            (
                &[
                    upload(1, 70, Some(9), Starves),
                    upload(2, 20, Some(60), Waits),
                ],
                end(&[1]),
            ),
            // Not one that is slow and holds little.
            (
                &[
                    upload(1, 1, Some(30), Starves),
                    upload(2, 50, Some(60), Waits),
                    upload(3, 49, Some(60), Waits),
                ],
                end(&[2]),
            ),
            // Not what its handler works with.
            (
                &[
                    upload(1, 50, Some(99), Waits),
                    upload(2, 45, Some(99), Waits),
                    upload(3, 0, None, Whole),
                ],
                end(&[1]),
            ),
        ] {
            assert_eq!(decide(uploads), expected, "{uploads:?}");
        }
    }

    #[test]
    fn none_is_ended_for_ten_seconds_while_one_could_go_on_with_what_others_hold() {
        let waits = |held, left, waited| Upload {
            waited,
            ..upload(1, held, left, Waits)
        };
        for (upload, others, expected) in [
            (waits(50, Some(40), 19), 40, go(&[])),
            (waits(50, Some(40), 20), 40, end(&[1])),
            (waits(60, Some(41), 0), 40, end(&[1])),
            (waits(60, None, 0), 40, go(&[])),
            (waits(60, None, 20), 40, end(&[1])),
            (waits(99, Some(9), 0), 1, end(&[1])),
            // There is room, and need for nobody's.
            (waits(10, None, 0), 70, go(&[(1, 20)])),
        ] {
            let decision = decide_with(&[upload], others, false);
            assert_eq!(decision, expected, "{upload:?} {others}");
        }
    }

    #[test]
    fn none_is_ended_before_memory_is_scarce() {
        let uploads = [
            upload(1, 30, Some(60), Waits),
            upload(2, 20, Some(70), Waits),
        ];
        assert_eq!(decide(&uploads), go(&[(1, 1), (2, 1)]));
    }

    #[test]
    fn it_is_one_of_the_client_that_holds_most() {
        let of = |id, owner, held| Upload {
            owner: Owner::Named(owner),
            ..upload(id, held, Some(99), Waits)
        };
        let uploads = [of(1, 1, 30), of(2, 7, 25), of(3, 7, 20), of(4, 4, 20)];
        assert_eq!(decide(&uploads), end(&[2, 1]));
    }

    #[test]
    fn as_many_are_ended_as_make_room_for_another() {
        let uploads: Vec<_> = (0..80).map(|id| upload(id, 1, Some(30), Waits)).collect();
        assert_eq!(decide(&uploads).end.len(), 10);
        let uploads: Vec<_> = (0..80).map(|id| upload(id, 1, Some(127), Waits)).collect();
        assert_eq!(decide(&uploads).end.len(), 30, "half of all is free");
    }

    #[test]
    fn who_holds_nothing_goes_on_and_the_last_eighth_is_for_those_that_come_to_their_end() {
        let small = upload(2, 0, Some(4000), Waits);
        let large = upload(1, 80, Some(50), Waits);
        let larger = upload(1, 90, Some(50), Waits);
        assert_eq!(decide(&[large, small]), go(&[(2, 1)]));
        assert_eq!(decide(&[larger, small]), end(&[1]));
        let consumes = Upload {
            consumes: true,
            ..small
        };
        assert_eq!(decide(&[larger, consumes]), go(&[(2, 1)]));
        // Others fill the budget, who can't be ended.
        let others = [small, upload(3, 0, Some(4001), Waits)];
        assert_eq!(decide_with(&others, 100, false), go(&[(2, 1)]));
    }

    #[test]
    fn where_the_process_has_no_memory_left_they_go_one_by_one_and_none_is_ended() {
        let uploads = [
            upload(1, 10, Some(50), Waits),
            upload(2, 10, Some(20), Waits),
        ];
        assert_eq!(decide_with(&uploads, 0, true), go(&[(2, 20)]));
        // Also near the budget.
        assert_eq!(decide_with(&uploads, 60, true), go(&[(2, 20)]));
        let uploads = [
            upload(1, 10, Some(50), Waits),
            upload(2, 10, Some(20), Goes),
        ];
        assert_eq!(decide_with(&uploads, 0, true), go(&[]));
    }
}
