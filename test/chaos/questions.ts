/** What the harness asks, and over which data: two tables per steward whose join has any size from a few rows to 300,000. */
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { SeededRandom } from "../support/random.ts";

/** Data stewards, in the order that gives their rows their numbers. */
export const STEWARDS = ["VU", "UVA", "RUG", "AMC"] as const;
export type Steward = (typeof STEWARDS)[number];
/** Who computes over all of them. */
export const THIRD_PARTY = "SURF";

const GROUPS = 10;
const SEATS = 100;
const VISIT_SEATS = 300;
/** Ids of one steward's members and visits lie below the next one's: a row tells whose it is. */
const IDS_PER_STEWARD = 100_000;

/** The rows that a question is about: of each group below `groups`, the members and visits with a seat below these. */
export interface Slice {
  readonly groups: number;
  readonly members: number;
  readonly visits: number;
}

/** Rows of the join that a slice has, per steward: 10 to 300,000. */
export const SLICES: readonly Slice[] = [
  { groups: 1, members: 2, visits: 5 },
  { groups: 5, members: 4, visits: 5 },
  { groups: 2, members: 20, visits: 25 },
  { groups: 10, members: 20, visits: 50 },
  { groups: 1, members: 100, visits: 300 },
  { groups: 5, members: 100, visits: 200 },
  { groups: GROUPS, members: SEATS, visits: VISIT_SEATS },
];

/** How many rows of the join a steward has in a slice. */
export function rowsOf({ groups, members, visits }: Slice): number {
  return groups * members * visits;
}

/** What an algorithm is asked for. */
export interface Algorithm {
  readonly names: readonly string[];
  /** By group, or over all rows. */
  readonly byGroup: boolean;
}

/** A question: rows, or an algorithm over them. */
export interface Question {
  readonly slice: Slice;
  readonly algorithm?: Algorithm;
}

/** The name that an answer's column has for one algorithm. */
export function columnOf(algorithm: string): string {
  return `${algorithm}_worth`;
}

/** The question as it is sent. */
export function toDataRequest({ slice, algorithm }: Question): DataRequest {
  const query =
    'SELECT m.id AS member, v.id AS visit, m."group" AS team, m.weight * v.points AS worth ' +
    'FROM Members m JOIN Visits v ON m."group" = v."group" ' +
    `WHERE m."group" < ${String(slice.groups)} AND m.seat < ${String(slice.members)} AND v.seat < ${String(slice.visits)}`;
  if (algorithm === undefined) return { type: "sqlDataRequest", query };
  return {
    type: "sqlDataRequest",
    query,
    algorithm: algorithm.names.join(", "),
    algorithmColumns: { [algorithm.byGroup ? "team" : "*"]: "worth" },
  };
}

const integer = { type: "integer" } as const;

/** The data set that all stewards share. */
export const DATA_SET: DataSet = {
  name: "visits",
  type: "csv",
  delimiter: ";",
  sensitive_columns: {},
  tables: [
    { name: "Members", columns: ["id", "group", "seat", "weight"].map((name) => ({ name, type: integer })) },
    { name: "Visits", columns: ["id", "group", "seat", "points"].map((name) => ({ name, type: integer })) },
  ],
};

/** One steward's data files, the same for the same seed: table to text. */
export function dataFiles(seed: number, steward: Steward): Readonly<Record<"Members" | "Visits", string>> {
  const place = STEWARDS.indexOf(steward);
  const random = new SeededRandom(seed + place);
  const table = (heading: string, seats: number): string => {
    const lines = [heading];
    for (let group = 0; group < GROUPS; group += 1) {
      for (let seat = 0; seat < seats; seat += 1) {
        const id = place * IDS_PER_STEWARD + group * seats + seat;
        lines.push([id, group, seat, random.int(-50, 1000)].join(";"));
      }
    }
    return `${lines.join("\n")}\n`;
  };
  return {
    Members: table("id;group;seat;weight", SEATS),
    Visits: table("id;group;seat;points", VISIT_SEATS),
  };
}

/** Whose row it is, by a member's id; undefined for an id that nobody has. */
export function stewardOf(memberId: number): Steward | undefined {
  return STEWARDS[Math.floor(memberId / IDS_PER_STEWARD)];
}
