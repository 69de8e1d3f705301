import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Oracle, rowFaultText, type JoinedRow } from "./oracle.ts";
import { dataFiles, rowsOf, SLICES, STEWARDS, type Slice, type Steward } from "./questions.ts";

/** Two groups with two members and two visits each; of UVA the ids begin at 100,000. */
const VU = {
  Members: "id;group;seat;weight\n0;0;0;2\n1;0;1;3\n2;1;0;5\n3;1;1;7\n",
  Visits: "id;group;seat;points\n0;0;0;10\n1;0;1;20\n2;1;0;30\n3;1;1;40\n",
};
const UVA = {
  Members: "id;group;seat;weight\n100000;0;0;-1\n100001;0;1;0\n100002;1;0;0\n100003;1;1;0\n",
  Visits: "id;group;seat;points\n100000;0;0;4\n100001;0;1;0\n100002;1;0;0\n100003;1;1;0\n",
};
const oracle = new Oracle(
  new Map<Steward, typeof VU>([
    ["VU", VU],
    ["UVA", UVA],
  ]),
);
const SLICE: Slice = { groups: 2, members: 1, visits: 2 };
const ROWS: readonly JoinedRow[] = [
  [0, 0, 0, 20],
  [0, 1, 0, 40],
  [2, 2, 1, 150],
  [2, 3, 1, 200],
];

describe("rows against the oracle", () => {
  test("that are right, in any order, have no fault", () => {
    assert.equal(faultOf([...ROWS].reverse()), undefined);
  });

  for (const [what, rows, fault] of [
    ["one is doubled", [...ROWS, ROWS[0]], "1 doubled, 0 missing, 0 foreign, 0 wrong"],
    ["one is missing", ROWS.slice(1), "0 doubled, 1 missing, 0 foreign, 0 wrong"],
    ["one is doubled and one missing", [...ROWS.slice(1), ROWS[1]], "1 doubled, 1 missing, 0 foreign, 0 wrong"],
    ["one has another value", [...ROWS.slice(1), [0, 0, 0, 21]], "0 doubled, 0 missing, 0 foreign, 1 wrong"],
    ["one has another group", [...ROWS.slice(1), [0, 0, 1, 20]], "0 doubled, 0 missing, 0 foreign, 1 wrong"],
    ["one was not asked for", [...ROWS, [1, 0, 0, 30]], "0 doubled, 0 missing, 1 foreign, 0 wrong"],
    ["one joins two groups", [...ROWS, [0, 2, 0, 60]], "0 doubled, 0 missing, 1 foreign, 0 wrong"],
    ["one is another steward's", [...ROWS, [100000, 100000, 0, -4]], "0 doubled, 0 missing, 1 foreign, 0 wrong"],
    ["one is nobody's", [...ROWS, [NaN, 0, 0, 0]], "0 doubled, 0 missing, 1 foreign, 0 wrong"],
  ] as const) {
    test(`of which ${what}: the fault is found`, () => {
      assert.equal(faultOf(rows as readonly JoinedRow[]), `rows: ${fault}`);
    });
  }

  test("that name another steward than their own are wrong", () => {
    const check = oracle.rowCheck(SLICE, ["VU"]);
    for (const row of ROWS) check.take(row, "UVA");
    assert.equal(check.faults().wrong, ROWS.length);
  });

  function faultOf(rows: readonly JoinedRow[]): string | undefined {
    const check = oracle.rowCheck(SLICE, ["VU"]);
    for (const row of rows) check.take(row);
    return rowFaultText(check.faults());
  }
});

describe("an algorithm against the oracle", () => {
  const question = { slice: SLICE, algorithm: { names: ["count", "sum", "min"], byGroup: true } };
  const right = [
    { team: 1, count_worth: 4, sum_worth: 350, min_worth: 0 },
    { team: 0, count_worth: 4, sum_worth: 56, min_worth: -4 },
  ];

  test("over all stewards together", () => {
    assert.equal(oracle.algorithmFault(question, ["VU", "UVA"], right), undefined);
    const all = { slice: SLICE, algorithm: { names: ["average"], byGroup: false } };
    assert.equal(oracle.algorithmFault(all, ["VU", "UVA"], [{ average_worth: 50.75 }]), undefined);
  });

  test("that counts one steward twice, leaves a group out or gives one twice is wrong", () => {
    const [first, second] = right;
    assert.match(
      oracle.algorithmFault(question, ["VU", "UVA"], [{ ...first!, count_worth: 6 }, second!]) ?? "",
      /count_worth of group 1/,
    );
    assert.match(oracle.algorithmFault(question, ["VU", "UVA"], [first!]) ?? "", /1 rows instead of 2/);
    assert.match(oracle.algorithmFault(question, ["VU", "UVA"], [first!, first!]) ?? "", /doubled group 1/);
    assert.match(oracle.algorithmFault(question, ["VU"], right) ?? "", /of group/);
  });
});

test("data files are the same for the same seed, and have the rows that slices promise", () => {
  assert.deepEqual(dataFiles(3, "VU"), dataFiles(3, "VU"));
  assert.notDeepEqual(dataFiles(3, "VU"), dataFiles(4, "VU"));
  const whole = new Oracle(new Map(STEWARDS.map((steward) => [steward, dataFiles(3, steward)])));
  const count = { names: ["count"], byGroup: false };
  for (const slice of SLICES) {
    const rows = [{ count_worth: STEWARDS.length * rowsOf(slice) }];
    assert.equal(whole.algorithmFault({ slice, algorithm: count }, STEWARDS, rows), undefined);
  }
});
