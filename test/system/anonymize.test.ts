/**
 * With anonymize on, asked for or forced, no original value of a sensitive column appears behind it. Every such value here is a
 * canary, random and unique; after the questions, all that the exchange has written is searched for them.
 */
import assert from "node:assert/strict";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { after, describe, test } from "node:test";
import { tableFromIPC } from "apache-arrow";
import { call, type Answer } from "../../cli/client.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { ANALYST, testExchange, writeConfiguration } from "../support/exchange.ts";
import { SeededRandom, seedFrom } from "../support/random.ts";

/** One person: the sensitive values as the data file has them. */
type Person = Readonly<
  Record<"name" | "number" | "pay" | "weight" | "born" | "seen" | "phone" | "note" | "secret", string>
>;

const random = new SeededRandom(seedFrom("ANONYMIZE_SEED"));
const letters = (count: number): string =>
  Array.from({ length: count }, () => random.pick([..."bcdfghjklmnpqrstvwxz"])).join("");
const digits = (count: number): string =>
  Array.from({ length: count }, (_, at) => random.int(at === 0 ? 1 : 0, 9)).join("");
/** At both stewards, so that their pseudonyms can be compared. */
const SHARED: Person = person();
const PEOPLE = { VU: [SHARED, ...people(20)], UVA: [SHARED, ...people(20)] };
const COLUMNS = Object.keys(SHARED).join(", ");

const folder = await configuration();
const exchange = await testExchange({ configuration: folder });
await exchange.backends.bus.listen();
after(() => console.log(`The canaries are those of ANONYMIZE_SEED=${String(random.seed)}`));
/** All that came back to the analyst. */
const answers: Buffer[] = [];

/** VU is asked to anonymize; UVA forces it. */
const HOW = { VU: { anonymize: true }, UVA: {} };
const FORMATS = ["application/json", "text/csv", "application/vnd.apache.arrow.stream"];
const QUESTIONS: readonly Omit<DataRequest, "type">[] = [
  { query: `SELECT team, ${COLUMNS} FROM people ORDER BY name` },
  { query: "SELECT team AS name, name AS team, born AS b, sub.pay FROM (SELECT * FROM people) AS sub" },
  {
    query: "SELECT name, phone, number FROM people",
    algorithm: "count",
    algorithmColumns: { name: "*", phone: "*", number: "*" },
  },
  {
    query: "SELECT * FROM people",
    algorithm: "min,max",
    algorithmColumns: { "": "number,pay,weight,name,born,seen,phone,note" },
  },
];
/** What would carry values past the anonymization, in a result or in an error's text. */
const REFUSED = [
  "SELECT team FROM people WHERE json_extract('{}', name) IS NULL",
  "SELECT team FROM people, json_each('{}', secret)",
  "SELECT name || '' AS name FROM people",
  "SELECT team FROM people UNION SELECT name FROM people",
  "SELECT team, (SELECT max(secret) FROM people) AS s FROM people",
];

for (const steward of ["VU", "UVA"] as const) {
  for (const archetype of ["computeToData", "dataThroughTtp"] as const) {
    describe(`${steward === "VU" ? "asked for" : "forced by the steward"}, ${archetype}`, () => {
      test("no original value is in an answer, in any format", async () => {
        const { endpoint, token } = await approved([steward], archetype);
        // Each pair of the four takes half of the formats and questions: chains cost a second.
        const isEven = (steward === "VU") === (archetype === "computeToData");
        const asked = isEven
          ? FORMATS.map((accept) => [QUESTIONS[0], accept])
          : QUESTIONS.map((each) => [each, FORMATS[0]]);
        for (const [question, accept] of asked as [(typeof QUESTIONS)[number], string][]) {
          const response = await ask(endpoint, token, question, HOW[steward], accept);
          assert.equal(response.status, 200, response.bytes.toString());
          assertClean(response.bytes, accept);
        }
      });

      test("nor in what a query that reaches for one is told", async () => {
        const { endpoint, token } = await approved([steward], archetype);
        for (const query of steward === "VU" && archetype === "computeToData" ? REFUSED : REFUSED.slice(0, 1)) {
          const { status, bytes } = await ask(endpoint, token, { query }, HOW[steward], "application/json");
          assert.ok(status >= 400 && status < 500, `${query}: ${bytes.toString()}`);
          assertClean(bytes, query);
        }
      });
    });
  }
}

describe("pseudonyms", () => {
  const question = { query: "SELECT name, number, born FROM people ORDER BY team, name" };

  test("are the same when the question is asked again, and others at another steward", async () => {
    const pseudonyms: string[] = [];
    for (const steward of ["VU", "UVA"] as const) {
      const { endpoint, token } = await approved([steward], "computeToData");
      const [first, second] = [
        await ask(endpoint, token, question, HOW[steward], "application/json"),
        await ask(endpoint, token, question, HOW[steward], "application/json"),
      ].map(({ bytes }) => (JSON.parse(bytes.toString()) as Answer).rows ?? []);
      assert.deepEqual(first, second);
      assert.equal(first?.length, PEOPLE[steward].length);
      pseudonyms.push(...new Set(first?.map(({ name }) => String(name))));
    }
    assert.equal(new Set(pseudonyms).size, PEOPLE.VU.length + PEOPLE.UVA.length);
  });
});

describe("behind sql-anonymize", () => {
  test("no original value is on the bus, in a file, or in a log", async () => {
    const searched = await searchState();
    assert.deepEqual(searched.found, []);
    for (const part of ["bus", "logs/agent-SURF.log", "jobs/"]) {
      assert.ok(
        searched.files.some((file) => file.startsWith(part)),
        `${part} was not searched: ${searched.files.join(", ")}`,
      );
    }
    assert.ok(answers.length > 15);
  });

  test("and the search would have found them: without anonymization it does", async () => {
    const { endpoint, token } = await approved(["VU"], "dataThroughTtp");
    const { bytes } = await ask(endpoint, token, { query: `SELECT ${COLUMNS} FROM people` }, {}, "text/csv");
    assert.equal(canariesIn(bytes).length, new Set(PEOPLE.VU.flatMap(originals)).size);
    assert.ok(
      (await searchState()).found.some(({ file }) => file === "bus"),
      "rows passed over the bus",
    );
  });
});

async function approved(dataProviders: string[], archetype: string): Promise<{ endpoint: string; token: string }> {
  const approval = await exchange.client.requestApproval({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders,
    options: { aggregate: archetype === "dataThroughTtp" },
  });
  assert.equal(approval.archetype, archetype);
  return { endpoint: Object.values(approval.authorizedProviders)[0] ?? "", token: approval.auth.accessToken };
}

async function ask(
  endpoint: string,
  token: string,
  question: Omit<DataRequest, "type">,
  options: Record<string, boolean>,
  accept: string,
): Promise<{ status: number; bytes: Buffer }> {
  const body = { type: "sqlDataRequest", ...question, options };
  // With a key the agent keeps the answer in a file, to be searched, too.
  const idempotencyKey = `key-${digits(20)}`;
  const response = await call("POST", endpoint, body, { token, idempotencyKey, headers: { accept } });
  return { status: response.status, bytes: Buffer.from(await response.arrayBuffer()) };
}

function assertClean(bytes: Buffer, what: string): void {
  answers.push(bytes);
  assert.deepEqual(canariesIn(bytes), [], `${what}, seed ${String(random.seed)}`);
  if (!what.includes("arrow")) return;
  const cells = tableFromIPC(bytes)
    .toArray()
    .flatMap((row) => Object.values((row as { toJSON(): object }).toJSON()) as unknown[]);
  assert.ok(cells.length > 0);
  assert.deepEqual(canariesIn(Buffer.from(cells.map((cell) => isoOf(cell)).join("\n"))), []);
}

/** Dates come out of Arrow as milliseconds. */
function isoOf(cell: unknown): string {
  return typeof cell === "number" && Number.isInteger(cell)
    ? `${new Date(cell).toISOString()} ${String(cell)}`
    : String(cell);
}

/** All that went over the bus, and all that there is in the exchange's folder, but for the stewards' own data, which of course hold the values. */
async function searchState(): Promise<{ files: string[]; found: { file: string; canary: string }[] }> {
  const found: { file: string; canary: string }[] = [];
  const files: string[] = [];
  for (const bytes of await exchange.backends.bus.passed()) {
    files.push("bus");
    for (const canary of canariesIn(bytes)) found.push({ file: "bus", canary });
  }
  for (const entry of await readdir(exchange.stateFolder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const file = relative(exchange.stateFolder, path);
    if (!entry.isFile() || file.startsWith("bus.db") || /^agent-(VU|UVA)\/(data|worlds)\//.test(file)) continue;
    // A job that is being tidied up takes its files with it.
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes === undefined) continue;
    files.push(file);
    for (const canary of canariesIn(bytes)) found.push({ file, canary });
  }
  return { files, found };
}

/** The original values that stand in these bytes: as text, and numbers as Arrow and SQLite have them. */
function canariesIn(bytes: Buffer): string[] {
  const all = new Set([...PEOPLE.VU, ...PEOPLE.UVA].flatMap(originals));
  return [...all].filter((canary) => formsOf(canary).some((form) => bytes.includes(form)));
}

function originals({ born, seen, ...others }: Person): string[] {
  return [...Object.values(others), born, seen];
}

function formsOf(canary: string): Buffer<ArrayBuffer>[] {
  const forms = [Buffer.from(canary)];
  if (/^\d+\.\d+$/.test(canary)) forms.push(wholeOf(BigInt(canary.replace(".", ""))), floatOf(Number(canary)));
  if (/^\d+$/.test(canary)) forms.push(wholeOf(BigInt(canary)));
  if (/Z$/.test(canary)) {
    forms.push(wholeOf(BigInt(Date.parse(canary)) * 1000n), Buffer.from(canary.replace("T", " ").slice(0, 19)));
  }
  return forms;
}

function wholeOf(value: bigint): Buffer<ArrayBuffer> {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(value);
  return bytes;
}

function floatOf(value: number): Buffer<ArrayBuffer> {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return bytes;
}

function people(count: number): Person[] {
  return Array.from({ length: count }, person);
}

/** Values of which no other text or number is likely to have the bytes; no day is the first of its year or month. */
function person(): Person {
  const month = String(random.int(2, 12)).padStart(2, "0");
  return {
    name: letters(16),
    number: digits(15),
    pay: `${digits(11)}.${digits(2)}`,
    weight: `${digits(3)}.${digits(11)}7`,
    born: `${String(random.int(1920, 1969))}-${month}-${String(random.int(10, 28))}`,
    seen: `20${String(random.int(10, 20))}-${month}-${String(random.int(10, 28))}T${String(random.int(10, 23))}:${String(random.int(10, 59))}:${String(random.int(10, 59))}Z`,
    phone: `06${digits(14)}`,
    note: letters(20),
    secret: letters(18),
  };
}

async function configuration(): Promise<string> {
  const types = {
    team: { type: "text" },
    name: { type: "text" },
    number: { type: "integer" },
    pay: { type: "decimal", precision: 15, scale: 2 },
    weight: { type: "float" },
    born: { type: "date" },
    seen: { type: "timestamp" },
    phone: { type: "text" },
    note: { type: "text" },
    secret: { type: "text" },
  } as const;
  const header = Object.keys(types);
  const fileOf = (rows: readonly Person[]): string =>
    [
      header.join(";"),
      ...rows.map((row) => ["blue", ...header.slice(1).map((name) => row[name as keyof Person])].join(";")),
      "",
    ].join("\n");
  const path = await writeConfiguration({
    dataSet: {
      name: "people",
      type: "csv",
      tables: [{ name: "people", columns: Object.entries(types).map(([name, type]) => ({ name, type })) }],
      sensitive_columns: { people: header.slice(1) },
      anonymization: {
        people: {
          name: { method: "pseudonymize" },
          number: { method: "perturb", range: 1_000_000 },
          pay: { method: "generalize", width: 1000 },
          weight: { method: "perturb", range: 5 },
          born: { method: "generalize", unit: "year" },
          seen: { method: "generalize", unit: "month" },
          phone: { method: "generalize", keep: 2 },
          note: { method: "mask" },
        },
      },
    },
    providers: { VU: { people: fileOf(PEOPLE.VU) }, UVA: { people: fileOf(PEOPLE.UVA) } },
  });
  const forced = { data_steward: "UVA", types: { sqlDataRequest: ["sql-anonymize"] } };
  await writeJson(join(path, "forcedServices"), "UVA.json", forced);
  return path;
}

async function writeJson(folderPath: string, name: string, value: unknown): Promise<void> {
  await mkdir(folderPath, { recursive: true });
  await writeFile(join(folderPath, name), JSON.stringify(value));
}
