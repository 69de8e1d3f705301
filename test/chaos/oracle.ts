/**
 * The right answers, computed from the text of the data files and nothing of the product: which rows an answer must have, each
 * once, and what an algorithm makes of them.
 */
import { differenceFrom, expectedValue, type JsonCell } from "../support/oracle.ts";
import { columnOf, rowsOf, stewardOf, type Question, type Slice, type Steward } from "./questions.ts";

/** A line of a data file. */
interface Entry {
  readonly id: number;
  readonly group: number;
  readonly seat: number;
  readonly value: number;
}

/** One steward's tables, by id. */
interface Tables {
  readonly members: ReadonlyMap<number, Entry>;
  readonly visits: ReadonlyMap<number, Entry>;
}

/** A row of an answer: ids of member and visit, group, value. */
export type JoinedRow = readonly [member: number, visit: number, group: number, worth: number];

/** What is wrong with the rows of an answer; all zero where nothing is. */
export interface RowFaults {
  readonly doubled: number;
  readonly missing: number;
  /** Rows that no steward has, or that were not asked for. */
  readonly foreign: number;
  /** Rows with a wrong value. */
  readonly wrong: number;
}

/** See the file comment. */
export class Oracle {
  readonly #tables: ReadonlyMap<Steward, Tables>;

  /** @param files each steward's data files, as text. */
  constructor(files: ReadonlyMap<Steward, Readonly<Record<"Members" | "Visits", string>>>) {
    this.#tables = new Map(
      [...files].map(([steward, { Members, Visits }]) => [steward, { members: parse(Members), visits: parse(Visits) }]),
    );
  }

  /** Takes the rows of an answer one by one, in any order. */
  rowCheck(slice: Slice, stewards: readonly Steward[]): RowCheck {
    return new RowCheck(slice, stewards, this.#tables);
  }

  /** Why the rows of an algorithm's answer over these stewards are not right; undefined where they are. */
  algorithmFault(
    { slice, algorithm }: Question,
    stewards: readonly Steward[],
    rows: readonly Readonly<Record<string, JsonCell>>[],
  ): string | undefined {
    if (algorithm === undefined) throw new Error("The question names no algorithm.");
    const expected = this.#valuesByGroup(slice, stewards, algorithm.byGroup);
    if (rows.length !== expected.size) return `${String(rows.length)} rows instead of ${String(expected.size)}`;
    for (const row of rows) {
      const group = algorithm.byGroup ? Number(row["team"]) : 0;
      const values = expected.get(group);
      if (values === undefined) return `an unknown or doubled group ${String(row["team"])}`;
      expected.delete(group);
      for (const name of algorithm.names) {
        const fault = differenceFrom(expectedValue(name, { type: "integer" }, values), row[columnOf(name)]);
        if (fault !== undefined) return `${columnOf(name)} of group ${String(group)}: ${fault}`;
      }
    }
    return undefined;
  }

  #valuesByGroup(slice: Slice, stewards: readonly Steward[], byGroup: boolean): Map<number, bigint[]> {
    const groups = new Map<number, bigint[]>();
    for (const steward of stewards) {
      const { members, visits } = this.#tables.get(steward) ?? NO_TABLES;
      const visitsIn = [...visits.values()].filter(({ group, seat }) => group < slice.groups && seat < slice.visits);
      for (const member of members.values()) {
        if (member.group >= slice.groups || member.seat >= slice.members) continue;
        const key = byGroup ? member.group : 0;
        const values = groups.get(key) ?? [];
        groups.set(key, values);
        for (const visit of visitsIn) if (visit.group === member.group) values.push(BigInt(member.value * visit.value));
      }
    }
    return groups;
  }
}

/** Counts the rows of one answer against those that it must have. */
export class RowCheck {
  readonly #slice: Slice;
  readonly #stewards: ReadonlySet<Steward>;
  readonly #tables: ReadonlyMap<Steward, Tables>;
  readonly #seen = new Set<number>();
  #doubled = 0;
  #foreign = 0;
  #wrong = 0;

  constructor(slice: Slice, stewards: readonly Steward[], tables: ReadonlyMap<Steward, Tables>) {
    this.#slice = slice;
    this.#stewards = new Set(stewards);
    this.#tables = tables;
  }

  /** Takes one row; a third party's says whose it is. */
  take([memberId, visitId, group, worth]: JoinedRow, provider?: string): void {
    const steward = stewardOf(memberId);
    const tables = steward === undefined || !this.#stewards.has(steward) ? undefined : this.#tables.get(steward);
    const member = tables?.members.get(memberId);
    const visit = tables?.visits.get(visitId);
    const { groups, members, visits } = this.#slice;
    if (member === undefined || visit === undefined || member.group !== visit.group || member.group >= groups) {
      this.#foreign += 1;
    } else if (member.seat >= members || visit.seat >= visits) {
      this.#foreign += 1;
    } else if (group !== member.group || worth !== member.value * visit.value || (provider ?? steward) !== steward) {
      this.#wrong += 1;
    } else {
      const key = memberId * 2 ** 20 + visitId;
      if (this.#seen.has(key)) this.#doubled += 1;
      this.#seen.add(key);
    }
  }

  /** What is wrong with what was taken so far. */
  faults(): RowFaults {
    const expected = this.#stewards.size * rowsOf(this.#slice);
    const missing = Math.max(0, expected - this.#seen.size - this.#wrong);
    return { doubled: this.#doubled, missing, foreign: this.#foreign, wrong: this.#wrong };
  }
}

/** In words, or undefined where there is none. */
export function rowFaultText({ doubled, missing, foreign, wrong }: RowFaults): string | undefined {
  if (doubled + missing + foreign + wrong === 0) return undefined;
  return `rows: ${String(doubled)} doubled, ${String(missing)} missing, ${String(foreign)} foreign, ${String(wrong)} wrong`;
}

const NO_TABLES: Tables = { members: new Map(), visits: new Map() };

function parse(text: string): Map<number, Entry> {
  const [, ...lines] = text.trimEnd().split("\n");
  return new Map(
    lines.map((line) => {
      const [id = NaN, group = NaN, seat = NaN, value = NaN] = line.split(";").map(Number);
      return [id, { id, group, seat, value }];
    }),
  );
}
