// Which clusters are alike in the matrix: each sees every other one as the rest of its group does, and is seen so.
// A hundred clusters of which one is down are two groups. Pure.

const WITHIN = ["v", "?", "x", "q"]; // what members of one group may be to one another

export function groups({ clusters, rows }) {
  const columns = clusters.map((_, c) => rows.map((row) => row[c]).join(""));
  const left = new Set(clusters.keys());
  const found = [];
  for (const cell of WITHIN) {
    // With that cell in place of themselves, the rows and columns of two that are alike are the same.
    const same = new Map();
    for (const i of left) {
      const fill = (line) => line.slice(0, i) + cell + line.slice(i + 1);
      const signature = `${fill(rows[i])} ${fill(columns[i])}`;
      if (!same.has(signature)) same.set(signature, []);
      same.get(signature).push(i);
    }
    for (const members of same.values()) {
      if (members.length < 2) continue;
      found.push(members);
      members.forEach((i) => left.delete(i));
    }
  }
  for (const i of left) found.push([i]);
  const faults = (i) => [...rows[i], ...columns[i]].filter((cell) => cell !== "v" && cell !== "-").length;
  const name = (i) => clusters[i];
  for (const members of found) members.sort((a, b) => name(a).localeCompare(name(b), "en", { numeric: true }));
  const ranked = found.map((members) => ({ members, faults: faults(members[0]) }));
  ranked.sort((a, b) => b.faults - a.faults || name(a.members[0]).localeCompare(name(b.members[0]), "en", { numeric: true }));
  return ranked.map(({ members }) => members);
}
