/** What a steward's file holds comes out with its type and value, as JSON, CSV and Arrow, through both archetypes. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { tableFromIPC, type Table } from "apache-arrow";
import { call, type Answer } from "../../cli/client.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { ANALYST, rejectsWith, testExchange, writeConfiguration } from "../support/exchange.ts";

const COLUMNS = {
  id: { type: "integer" },
  pay: { type: "decimal", precision: 15, scale: 4 },
  size: { type: "float" },
  agreed: { type: "boolean" },
  name: { type: "text" },
  born: { type: "date" },
  seen: { type: "timestamp" },
} as const;
const FILE = [
  Object.keys(COLUMNS).join(";"),
  '9007199254740993;12345678901.2345;0.1;true;"Ж 東京 \u{1F9EA} é";1899-12-31;1969-12-31T23:59:59.999999Z',
  '-9223372036854775808;-0.0001;5e-324;false;"two\nlines; ""quoted"", and a comma";2024-02-29;2024-02-29T12:00:00Z',
  '9223372036854775807;0.1000;-1.7976931348623157e308;true;"";9999-12-31;0001-01-01T00:00:00Z',
  ";;;;;;",
  "",
].join("\n");
/** The same rows as a JSON answer has them: numbers that a double would change are text. */
const ROWS = [
  {
    id: "9007199254740993",
    pay: 12345678901.2345,
    size: 0.1,
    agreed: true,
    name: "Ж 東京 \u{1F9EA} é",
    born: "1899-12-31",
    seen: "1969-12-31T23:59:59.999999Z",
  },
  {
    id: "-9223372036854775808",
    pay: -0.0001,
    size: 5e-324,
    agreed: false,
    name: 'two\nlines; "quoted", and a comma',
    born: "2024-02-29",
    seen: "2024-02-29T12:00:00Z",
  },
  {
    id: "9223372036854775807",
    pay: 0.1,
    size: -1.7976931348623157e308,
    agreed: true,
    name: "",
    born: "9999-12-31",
    seen: "0001-01-01T00:00:00Z",
  },
  { id: null, pay: null, size: null, agreed: null, name: null, born: null, seen: null },
];
const CSV = [
  Object.keys(COLUMNS).join(","),
  "9007199254740993,12345678901.2345,0.1,true,Ж 東京 \u{1F9EA} é,1899-12-31,1969-12-31T23:59:59.999999Z",
  '-9223372036854775808,-0.0001,5e-324,false,"two\nlines; ""quoted"", and a comma",2024-02-29,2024-02-29T12:00:00Z',
  '9223372036854775807,0.1000,-1.7976931348623157e+308,true,"",9999-12-31,0001-01-01T00:00:00Z',
  ",,,,,,",
  "",
].join("\r\n");
const ARROW_TYPES = [
  "Int64",
  "Decimal[15e+4]",
  "Float64",
  "Bool",
  "Utf8",
  "Date32<DAY>",
  "Timestamp<MICROSECOND, UTC>",
];

const exchange = await testExchange({
  configuration: await writeConfiguration({
    dataSet: {
      name: "kinds",
      type: "csv",
      tables: [{ name: "kinds", columns: Object.entries(COLUMNS).map(([name, type]) => ({ name, type })) }],
      sensitive_columns: {},
    },
    providers: { VU: { kinds: FILE } },
  }),
});
const atHome = await approved("computeToData");
const atThirdParty = await approved("dataThroughTtp");
const ALL = { query: "SELECT * FROM kinds" };

for (const { archetype, ask, provider } of [atHome, atThirdParty]) {
  describe(`rows through ${archetype} keep their types and values`, () => {
    test("as JSON", async () => {
      const answer = await asJson(ask(ALL, "application/json"));
      assert.deepEqual(
        answer.columns?.slice(-7),
        Object.entries(COLUMNS).map(([name, { type }]) => ({ name, type })),
      );
      assert.deepEqual(
        answer.rows,
        ROWS.map((row) => ({ ...provider, ...row })),
      );
      assert.equal(answer.rowCount, ROWS.length);
    });

    test("as CSV", async () => {
      const response = await ask(ALL, "text/csv");
      assert.match(response.headers.get("content-type") ?? "", /^text\/csv/);
      assert.equal(await response.text(), archetype === "computeToData" ? CSV : withProvider(CSV));
    });

    test("as Arrow", async () => {
      const response = await ask(ALL, "application/vnd.apache.arrow.stream");
      const table = tableFromIPC(new Uint8Array(await response.arrayBuffer()));
      assert.deepEqual(
        table.schema.fields.slice(-7).map((field) => String(field.type)),
        ARROW_TYPES,
      );
      assert.deepEqual(arrowRows(table), ROWS);
    });
  });
}

describe("a picture", () => {
  const question = {
    query: "SELECT agreed, size FROM kinds WHERE id <> -9223372036854775807",
    algorithm: "count",
    algorithmColumns: { agreed: "size" },
    options: { graph: true },
  };

  test("comes as SVG and as PNG, by Accept", async () => {
    const svg = await (await atHome.ask(question, "image/svg+xml")).text();
    assert.match(svg, /^<svg[^]*<\/svg>\s*$/);
    const png = Buffer.from(await (await atThirdParty.ask(question, "image/png")).arrayBuffer());
    assert.equal(png.subarray(0, 8).toString("latin1"), "\x89PNG\r\n\x1a\n");
  });

  test("stands in a JSON answer, beside the rows", async () => {
    const { graph, rows } = await asJson(atHome.ask(question, "application/json"));
    assert.equal(graph?.kind, "bar");
    assert.match(graph?.svg ?? "", /^<svg/);
    assert.equal(
      Buffer.from(graph?.png ?? "", "base64")
        .subarray(1, 4)
        .toString(),
      "PNG",
    );
    assert.equal(rows?.length, 2);
  });

  test("is refused by a problem where none was asked for", async () => {
    const response = await atHome.ask({ ...question, options: {} }, "image/png");
    assert.equal(response.status, 400);
    assert.match(await response.text(), /graph/);
  });
});

describe("a result without rows", () => {
  const nothing = { query: "SELECT * FROM kinds WHERE id = 0" };

  test("has its columns in every format", async () => {
    const answer = await asJson(atHome.ask(nothing, "application/json"));
    assert.deepEqual([answer.rows, answer.rowCount, answer.columns?.length], [[], 0, 7]);
    const csv = await (await atThirdParty.ask(nothing, "text/csv")).text();
    assert.equal(csv, `provider,${Object.keys(COLUMNS).join(",")}\r\n`);
    const arrow = await (await atThirdParty.ask(nothing, "application/vnd.apache.arrow.stream")).arrayBuffer();
    const table = tableFromIPC(new Uint8Array(arrow));
    assert.deepEqual([table.numRows, table.schema.fields.length], [0, 8]);
  });

  test("gives an algorithm nothing to compute over: no groups, or one of no values", async () => {
    for (const { ask } of [atHome, atThirdParty]) {
      const columns = { "": "id, pay", agreed: "id, pay" };
      const answer = await asJson(
        ask({ ...nothing, algorithm: "count,sum", algorithmColumns: columns }, "application/json"),
      );
      assert.deepEqual(answer.rows, [
        { grouping: "", agreed: null, count_id: 0, sum_id: null, count_pay: 0, sum_pay: null },
      ]);
    }
  });
});

describe("columns of one name", () => {
  test("of a query are told apart", async () => {
    const question = { query: "SELECT a.name, b.name FROM kinds a JOIN kinds b ON a.id = b.id WHERE a.agreed = 0" };
    const { rows } = await asJson(atHome.ask(question, "application/json"));
    assert.deepEqual(rows, [{ name: ROWS[1]?.name, "name:1": ROWS[1]?.name }]);
  });

  test("leave the query's own column called provider alone", async () => {
    const question = { query: "SELECT agreed AS provider FROM kinds WHERE agreed = 0" };
    const { rows } = await asJson(atThirdParty.ask(question, "application/json"));
    assert.deepEqual(rows, [{ provider_1: "VU", provider: false }]);
  });

  test("are refused where an algorithm's result would have them", async () => {
    const question = {
      query: "SELECT agreed AS count_id, id FROM kinds",
      algorithm: "count",
      algorithmColumns: { count_id: "id" },
    };
    await rejectsWith(
      exchange.client.ask({
        type: "sqlDataRequest",
        user: ANALYST,
        dataProviders: ["VU"],
        data_request: { type: "sqlDataRequest", ...question },
      }),
      "invalid_argument",
    );
  });
});

async function approved(archetype: "computeToData" | "dataThroughTtp") {
  const { auth, authorizedProviders } = await exchange.client.requestApproval({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU"],
    options: { aggregate: archetype === "dataThroughTtp" },
  });
  const [endpoint = ""] = Object.values(authorizedProviders);
  return {
    archetype,
    /** At a third party each row says whose it is. */
    provider: archetype === "dataThroughTtp" ? { provider: "VU" } : {},
    ask: (question: Omit<DataRequest, "type">, accept: string): Promise<Response> =>
      call("POST", endpoint, { type: "sqlDataRequest", ...question }, { token: auth.accessToken, headers: { accept } }),
  };
}

async function asJson(response: Promise<Response>): Promise<Answer> {
  return (await (await response).json()) as Answer;
}

function withProvider(csv: string): string {
  return csv
    .split("\r\n")
    .map((line, place) => (line === "" ? line : `${place === 0 ? "provider" : "VU"},${line}`))
    .join("\r\n");
}

/** The rows of a table as any reader of Arrow finds them, in the form of {@link ROWS}. */
function arrowRows(table: Table): unknown[] {
  const column = (name: string, read: (value: never) => unknown): unknown[] =>
    Array.from(table.getChild(name) ?? [], (value: unknown) => (value === null ? null : read(value as never)));
  const columns = {
    id: column("id", (value: bigint) => String(value)),
    pay: column("pay", (value: Uint32Array) => Number(unscaled(value)) / 1e4),
    size: column("size", (value: number) => value),
    agreed: column("agreed", (value: boolean) => value),
    name: column("name", (value: string) => value),
    born: column("born", (value: number) => new Date(value).toISOString().slice(0, 10)),
    seen: instants(table),
  };
  return Array.from({ length: table.numRows }, (_, row) =>
    Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[row]])),
  );
}

/** From the buffers: apache-arrow itself gives milliseconds, rounded. */
function instants(table: Table): unknown[] {
  const vector = table.getChild("seen");
  const microseconds = vector?.data.flatMap(({ values }) => Array.from(values as BigInt64Array)) ?? [];
  return microseconds.map((value, row) => {
    if (vector?.get(row) === null) return null;
    const fraction = ((value % 1_000_000n) + 1_000_000n) % 1_000_000n;
    const seconds = new Date(Number((value - fraction) / 1000n)).toISOString().slice(0, 19);
    return `${seconds}${fraction === 0n ? "" : `.${String(fraction).padStart(6, "0")}`}Z`;
  });
}

/** 128 bits, the lowest first, as a signed number. */
function unscaled(words: Uint32Array): bigint {
  return BigInt.asIntN(
    128,
    Array.from(words).reduceRight((value, word) => (value << 32n) | BigInt(word), 0n),
  );
}
