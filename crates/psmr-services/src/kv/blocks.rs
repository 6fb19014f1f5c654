//! Short sequences, packed without a gap: blocks of one length lie one after the other, so that neither room ahead, nor what
//! an allocator rounds up to, nor holes that others left cost memory. A block that grows or shrinks goes to those of its new
//! length, and the last one of its old length takes the place that becomes free.

/// Blocks lie in chunks of so many bytes, all alike, so that one fits where another was.
const CHUNK_BYTES: usize = 64 << 10;

/// The longest block that is packed. A longer one has a chunk of its own: those are rare, and would be copied as often as they
/// grow.
const PACKED_MAX: usize = 32;

/// Where a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The number of its chunk; 0 has no items.
    chunk: u32,
    start: u16,
    /// Of a packed block; `LONG` for one that has its chunk for itself.
    len: u16,
}

const LONG: u16 = u16::MAX;

impl Place {
    /// Of a block without items.
    pub const EMPTY: Place = Place { chunk: 0, start: 0, len: 0 };
}

/// Blocks of items. Where a block is changes when its length does, and when another one's does: the methods that change a
/// length return, beside the block's new place, the place, if any, that another block has come to, whose owner has to be told.
pub struct Blocks<T> {
    /// By number.
    chunks: Vec<Vec<T>>,
    /// Numbers that no chunk has; their memory is given back.
    unused: Vec<u32>,
    /// The chunks of the packed blocks, by their length. All but the last are full, none is empty.
    packed: [Vec<u32>; PACKED_MAX + 1],
    /// The memory of a chunk that became empty, for the next one: where blocks come and go at the end of a chunk, it is not asked
    /// for each time.
    spare: Vec<T>,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        let packed = std::array::from_fn(|_| Vec::new());
        Blocks { chunks: vec![Vec::new()], unused: Vec::new(), packed, spare: Vec::new() }
    }
}

impl<T> Blocks<T> {
    /// Items in a chunk of packed blocks.
    const CHUNK_MAX: usize = {
        let items = CHUNK_BYTES / size_of::<T>();
        assert!(items >= PACKED_MAX && items <= u16::MAX as usize, "a chunk has room for a block, and a number for each item");
        items
    };

    /// The items of a block.
    #[inline]
    pub fn get(&self, place: Place) -> &[T] {
        let chunk = &self.chunks[place.chunk as usize];
        match place.len {
            LONG => chunk,
            len => &chunk[usize::from(place.start)..][..usize::from(len)],
        }
    }

    /// The items of a block, to be changed.
    #[inline]
    pub fn get_mut(&mut self, place: Place) -> &mut [T] {
        let chunk = &mut self.chunks[place.chunk as usize];
        match place.len {
            LONG => chunk,
            len => &mut chunk[usize::from(place.start)..][..usize::from(len)],
        }
    }

    /// A new block.
    pub fn put(&mut self, items: Vec<T>) -> Place {
        match items.len() {
            0 => Place::EMPTY,
            1..=PACKED_MAX => self.pack(items.len(), |chunk| chunk.extend(items)),
            _ => {
                let chunk = self.new_chunk();
                self.chunks[chunk as usize] = items;
                Place { chunk, start: 0, len: LONG }
            }
        }
    }

    /// Takes a block away.
    pub fn take(&mut self, place: Place) -> (Vec<T>, Option<Place>) {
        match usize::from(place.len) {
            0 => (Vec::new(), None),
            len @ 1..=PACKED_MAX => {
                let (chunk, moved) = self.make_last(place);
                let from = &mut self.chunks[chunk];
                let items = from.drain(from.len() - len..).collect();
                self.give_back(len);
                (items, moved)
            }
            _ => {
                self.unused.push(place.chunk);
                (std::mem::take(&mut self.chunks[place.chunk as usize]), None)
            }
        }
    }

    /// Inserts an item at a position of a block.
    pub fn insert(&mut self, place: Place, position: usize, item: T) -> (Place, Option<Place>) {
        if place.len == LONG {
            let block = &mut self.chunks[place.chunk as usize];
            if block.len() == block.capacity() {
                block.reserve_exact(block.len() / 8);
            }
            block.insert(position, item);
            return (place, None);
        }
        let len = usize::from(place.len);
        if len == PACKED_MAX {
            let (mut items, moved) = self.take(place);
            items.insert(position, item);
            return (self.put(items), moved);
        }
        if len == 0 {
            return (self.pack(1, |chunk| chunk.push(item)), None);
        }
        let (last, moved) = self.make_last(place);
        // Taken out meanwhile, because two chunks of one vector change.
        let mut from = std::mem::take(&mut self.chunks[last]);
        let place = self.pack(len + 1, |chunk| {
            chunk.extend(from.drain(from.len() - len..));
            chunk.push(item);
            let end = chunk.len();
            chunk[end - 1 - len + position..].rotate_right(1);
        });
        self.chunks[last] = from;
        self.give_back(len);
        (place, moved)
    }

    /// Removes the item at a position of a block.
    pub fn remove(&mut self, place: Place, position: usize) -> (T, Place, Option<Place>) {
        if place.len == LONG {
            let block = &mut self.chunks[place.chunk as usize];
            let item = block.remove(position);
            if block.len() > PACKED_MAX {
                if block.capacity() > block.len() + block.len() / 4 {
                    block.shrink_to_fit();
                }
                return (item, place, None);
            }
            let (items, _) = self.take(place);
            return (item, self.put(items), None);
        }
        let len = usize::from(place.len);
        let (last, moved) = self.make_last(place);
        let mut from = std::mem::take(&mut self.chunks[last]);
        let item = from.remove(from.len() - len + position);
        let rest = from.len() + 1 - len;
        let place = match len {
            1 => Place::EMPTY,
            _ => self.pack(len - 1, |chunk| chunk.extend(from.drain(rest..))),
        };
        self.chunks[last] = from;
        self.give_back(len);
        (item, place, moved)
    }

    /// A new block of this length at the end of those, which `fill` appends to the chunk.
    #[inline]
    fn pack(&mut self, len: usize, fill: impl FnOnce(&mut Vec<T>)) -> Place {
        let last = self.packed[len].last().copied();
        let number = match last.filter(|last| self.chunks[*last as usize].len() + len <= Self::CHUNK_MAX) {
            Some(number) => number,
            None => self.extend_packed(len),
        };
        let chunk = &mut self.chunks[number as usize];
        let start = chunk.len();
        if start + len > chunk.capacity() {
            chunk.reserve_exact((start / 2).max(len).min(Self::CHUNK_MAX - start));
        }
        fill(chunk);
        debug_assert_eq!(chunk.len(), start + len);
        Place { chunk: number, start: start as u16, len: len as u16 }
    }

    /// A further chunk for blocks of this length. The first one of a length grows with what is in it.
    fn extend_packed(&mut self, len: usize) -> u32 {
        let number = self.new_chunk();
        if !self.packed[len].is_empty() {
            let mut chunk = std::mem::take(&mut self.spare);
            chunk.reserve_exact(Self::CHUNK_MAX);
            self.chunks[number as usize] = chunk;
        }
        self.packed[len].push(number);
        number
    }

    fn new_chunk(&mut self) -> u32 {
        self.unused.pop().unwrap_or_else(|| {
            self.chunks.push(Vec::new());
            // There are fewer chunks than items in memory by far.
            (self.chunks.len() - 1) as u32
        })
    }

    /// Makes a packed block the last one of its length: the chunk that it is in now, and its old place if that has another
    /// block now.
    #[inline]
    fn make_last(&mut self, place: Place) -> (usize, Option<Place>) {
        let (start, len) = (usize::from(place.start), usize::from(place.len));
        let at = place.chunk as usize;
        let last = self.packed[len].last().map_or(at, |last| *last as usize);
        let last_start = self.chunks[last].len() - len;
        if last != at {
            let [chunk, last] = self.two_chunks(at, last);
            chunk[start..start + len].swap_with_slice(&mut last[last_start..]);
        } else if last_start != start {
            let (before, from_last) = self.chunks[at].split_at_mut(last_start);
            before[start..start + len].swap_with_slice(from_last);
        } else {
            return (last, None);
        }
        (last, Some(place))
    }

    fn two_chunks(&mut self, a: usize, b: usize) -> [&mut Vec<T>; 2] {
        let (low, high) = self.chunks.split_at_mut(a.max(b));
        match a < b {
            true => [&mut low[a], &mut high[0]],
            false => [&mut high[0], &mut low[b]],
        }
    }

    /// Gives the last chunk of this length back if it is empty, and part of the only one if most of it is.
    #[inline]
    fn give_back(&mut self, len: usize) {
        let numbers = &mut self.packed[len];
        let Some(&last) = numbers.last() else { return };
        let chunk = &mut self.chunks[last as usize];
        if chunk.is_empty() {
            let chunk = std::mem::take(chunk);
            numbers.pop();
            self.unused.push(last);
            if chunk.capacity() >= Self::CHUNK_MAX && self.spare.capacity() == 0 {
                self.spare = chunk;
            }
        } else if numbers.len() == 1 && chunk.len() < chunk.capacity() / 2 {
            chunk.shrink_to(chunk.len() + chunk.len() / 4);
        }
    }

    /// For how many items there is room.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Large, so that blocks fill several chunks.
    type Item = [u64; 64];

    /// Blocks that know their owners by their first item, which stays the first.
    #[derive(Default)]
    struct World {
        blocks: Blocks<Item>,
        owners: Vec<(Place, Vec<Item>)>,
    }

    impl World {
        fn settle(&mut self, moved: Option<Place>) {
            if let Some(place) = moved {
                let owner = self.blocks.get(place)[0][0];
                self.owners[owner as usize].0 = place;
            }
        }

        fn step(&mut self, owner: usize, kind: u8, position: usize, n: u64) {
            let mut item = [n; 64];
            item[0] = owner as u64;
            let (place, model) = &mut self.owners[owner];
            let moved = match kind {
                0 if model.len() > 1 => {
                    let position = 1 + position % (model.len() - 1);
                    let (removed, now, moved) = self.blocks.remove(*place, position);
                    assert_eq!(removed, model.remove(position));
                    *place = now;
                    moved
                }
                0 | 1 if !model.is_empty() => {
                    let (taken, moved) = self.blocks.take(std::mem::take(place));
                    assert_eq!(taken, std::mem::take(model));
                    moved
                }
                _ => {
                    let position = if model.is_empty() { 0 } else { 1 + position % model.len() };
                    let (now, moved) = self.blocks.insert(*place, position, item);
                    model.insert(position, item);
                    *place = now;
                    moved
                }
            };
            self.settle(moved);
        }
    }

    proptest! {
        /// Few owners have long blocks, many have blocks in several chunks.
        #[test]
        fn a_block_is_what_its_owner_put_there(
            owners in prop_oneof![1..4usize, 300..400usize],
            steps in prop::collection::vec((0..400usize, 0..40u8, 0..40usize, any::<u64>()), 0..4000)
        ) {
            let mut world = World { owners: vec![Default::default(); owners], ..World::default() };
            for (owner, kind, position, n) in steps {
                // Twelve removals to one that takes all.
                let kind = match kind { 0 => 1, 1..=12 => 0, _ => 2 };
                world.step(owner % owners, kind, position, n);
            }
            for (place, model) in &world.owners {
                prop_assert_eq!(world.blocks.get(*place), &model[..]);
            }
            for owner in 0..owners {
                let place = std::mem::take(&mut world.owners[owner].0);
                let (taken, moved) = world.blocks.take(place);
                prop_assert_eq!(&taken, &world.owners[owner].1);
                world.settle(moved);
            }
            prop_assert_eq!(world.blocks.capacity(), 0);
        }
    }

    #[test]
    fn many_blocks_have_little_room_ahead() {
        let mut blocks = Blocks::default();
        let mut places = vec![Place::default(); 20_000];
        for round in 0..12 {
            for owner in 0..places.len() {
                let (place, moved) = blocks.insert(places[owner], round, [owner as u64; 6]);
                places[owner] = place;
                if let Some(moved) = moved {
                    places[blocks.get(moved)[0][0] as usize] = moved;
                }
            }
            let items = (round + 1) * places.len();
            assert!(blocks.capacity() < items + items / 20 + 2 * CHUNK_BYTES / 48, "{} for {items}", blocks.capacity());
        }
    }
}
