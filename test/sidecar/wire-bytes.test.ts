/**
 * The bytes of 30,000 rows on every wire that they cross, through the parts that put them there: each hop in a pod over a real
 * gRPC connection, each message of the bus, each HTTP answer. The thesis' query over the sample data.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import type { RecordBatch, Schema } from "apache-arrow";
import Database from "better-sqlite3";
import { answerPieces } from "../../agent/http/answer-formats.ts";
import { sampleRows, type SampleStewardName } from "../../cli/generate-sample-data.ts";
import { createTableSql } from "../../lib/data/sqlite-tables.ts";
import { chooseEncoding, encodedBody } from "../../lib/http/content-encoding.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { PAYING_RATIO } from "../../lib/rpc/chunk-compression.ts";
import { RpcClient } from "../../lib/rpc/client.ts";
import { frameBytes } from "../../lib/rpc/frame-bytes.ts";
import { FrameRecoder } from "../../lib/rpc/frame-recoding.ts";
import { sendFrames } from "../../lib/rpc/frame-sending.ts";
import { FrameWriter, readParts } from "../../lib/rpc/frames.ts";
import { MicroserviceService } from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, readRecordBatches, schemaBytes } from "../../lib/rpc/record-batches.ts";
import { startRpcServer } from "../../lib/rpc/server.ts";
import { implement } from "../../lib/rpc/service.ts";
import { joinStreams, type ProviderStream } from "../../microservices/sql-aggregate/aggregate.ts";
import { planAnonymization } from "../../microservices/sql-anonymize/anonymize.ts";
import { QueryProcesses } from "../../microservices/sql-query/query-processes.ts";
import { DEFAULT_QUERY_LIMITS } from "../../microservices/sql-query/query-protocol.ts";
import { runQuery } from "../../microservices/sql-query/query.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** What the issue allows; 4.04 MB in the thesis, 1.22 MB as the prototype's JSON answer. */
const LIMIT = 300_000;
const SQL =
  "SELECT p.Unieknr, p.Geslacht, p.Gebdat, s.Aanst_22, s.Functcat, s.Salschal FROM Personen p JOIN Aanstellingen s";

const WAGE_GAP = JSON.parse(
  await readFile(join(packageRoot, "configuration", "datasets", "wageGap.json"), "utf8"),
) as DataSet;
const folder = await temporaryFolder();

interface Rows {
  readonly schema: Schema;
  readonly batches: readonly RecordBatch[];
}

/** The wires, and what crossed them. */
type Wires = Record<string, number>;

/** The sample's rows as the agent's loader stores them. */
async function worldOf(steward: SampleStewardName): Promise<string> {
  const path = join(folder, `${steward}.sqlite`);
  if (existsSync(path)) return path;
  const database = new Database(path);
  for (const table of WAGE_GAP.tables) database.exec(createTableSql(table));
  const inserts = new Map(
    WAGE_GAP.tables.map(({ name, columns }) => [
      name,
      database.prepare(`INSERT INTO ${name} VALUES (${columns.map(() => "?").join()})`),
    ]),
  );
  database.exec("BEGIN");
  for (const { table, cells } of sampleRows(steward)) {
    const columns = WAGE_GAP.tables.find(({ name }) => name === table)?.columns ?? [];
    inserts.get(table)?.run(cells.map((cell, place) => stored(cell, columns[place]?.type.type ?? "text")));
  }
  database.exec("COMMIT");
  database.close();
  return path;
}

function stored(cell: string, type: string): string | number | null {
  if (cell === "") return null;
  if (type === "decimal") return Number(cell.replace(",", "."));
  if (type === "integer") return Number(cell);
  if (type === "boolean") return cell === "J" || cell === "wel" ? 1 : 0;
  return type === "date" ? cell.replace(/^(\d\d)-(\d\d)-(\d{4})$/, "$3-$2-$1") : cell;
}

async function query(steward: SampleStewardName, rows: number): Promise<Rows> {
  const processes = new QueryProcesses({ limits: DEFAULT_QUERY_LIMITS, temporaryFolder: folder, atOnce: 1 });
  const world = { path: await worldOf(steward), dataSets: [WAGE_GAP] };
  const request = { sql: `${SQL} LIMIT ${rows}`, world, signal: new AbortController().signal };
  const { schema, batches } = await runQuery(request, processes);
  const all: RecordBatch[] = [];
  for await (const batch of batches) all.push(batch);
  await processes.close();
  return { schema, batches: all };
}

function anonymized({ schema, batches }: Rows): Rows {
  const key = Buffer.from("a key of the steward, 32 bytes..");
  const plan = planAnonymization({ schema, dataSets: [WAGE_GAP], query: SQL, key });
  return { schema: plan.schema, batches: batches.map((batch) => plan.transform(batch)) };
}

function framesOf(provider: string, { schema, batches }: Rows): Frame[] {
  const writer = new FrameWriter({ provider, requestId: "r", attempt: 1 });
  const start = writer.start({ arrowSchema: schemaBytes(schema) });
  return [start, ...batches.flatMap((batch) => [...batchFrames(writer, batch)]), writer.end()];
}

async function* iterate<Value>(values: Iterable<Value>): AsyncGenerator<Value> {
  yield* values;
}

function sum(frames: readonly Frame[]): number {
  return frames.reduce((bytes, frame) => bytes + frameBytes(frame).byteLength, 0);
}

/** Over gRPC, as from one microservice to the next. */
async function hop(wires: Wires, name: string, frames: readonly Frame[]): Promise<Frame[]> {
  const taken: Frame[] = [];
  const process = async (incoming: AsyncIterable<Frame>): Promise<object> => {
    for await (const frame of incoming) taken.push(frame);
    return {};
  };
  const server = await startRpcServer({ port: 0, implementations: [implement(MicroserviceService, { process })] });
  const client = new RpcClient({ port: server.port, peer: name });
  await sendFrames(client, MicroserviceService.method.process, iterate(frames));
  client.close();
  await server.close();
  wires[name] = sum(taken);
  return taken;
}

/** Through the sidecar's output onto the bus. */
function overBus(wires: Wires, name: string, frames: readonly Frame[]): Frame[] {
  const recoder = new FrameRecoder(PAYING_RATIO.bus);
  const sent = frames.map((frame) => recoder.recode(frame, true));
  wires[name] = sum(sent);
  return sent;
}

async function read(frames: readonly Frame[]): Promise<Rows> {
  const batches: RecordBatch[] = [];
  let schema: Schema | undefined;
  for await (const part of readRecordBatches(iterate(frames), "VU")) {
    if (part.kind === "start") schema = part.schema;
    if (part.kind === "batch") batches.push(part.batch);
  }
  assert.ok(schema);
  return { schema, batches };
}

async function join30k(inputs: readonly (readonly Frame[])[]): Promise<Rows> {
  const streams = await Promise.all(
    inputs.map(async (frames): Promise<ProviderStream> => {
      const { schema, batches } = await read(frames);
      return { provider: frames[0]?.provider ?? "", schema, batches: iterate(batches) };
    }),
  );
  const joined = joinStreams(streams, { signal: new AbortController().signal });
  const batches: RecordBatch[] = [];
  for await (const batch of joined.batches) batches.push(batch);
  return { schema: joined.schema, batches };
}

async function answers(wires: Wires, frames: readonly Frame[]): Promise<void> {
  const heading = { requestId: "r", jobName: "j", archetype: "computeToData", provider: "VU" };
  const texts = new Set<string>();
  for (const format of ["json", "arrow", "csv"] as const) {
    for (const accepted of ["br", "gzip"] as const) {
      const pieces = answerPieces(format, readParts(iterate(frames), "VU"), heading);
      const body = encodedBody(Readable.from(pieces, { objectMode: false }), chooseEncoding(accepted));
      const parts: Buffer[] = [];
      for await (const part of body as AsyncIterable<Buffer>) parts.push(part);
      const whole = Buffer.concat(parts);
      wires[`HTTP, ${format}, ${accepted}`] = whole.byteLength;
      if (format === "json") texts.add((accepted === "br" ? brotliDecompressSync : gunzipSync)(whole).toString());
    }
  }
  const [text = "", ...others] = texts;
  assert.equal(others.length, 0);
  assert.equal((JSON.parse(text) as { rows: unknown[] }).rows.length, 30_000);
}

function assertSmall(wires: Wires, expected: number): void {
  assert.equal(Object.keys(wires).length, expected);
  const large = Object.entries(wires).filter(([, bytes]) => bytes > LIMIT);
  assert.deepEqual(large, [], `of ${JSON.stringify(wires)}`);
}

test("30,000 rows by computeToData take at most 300 kB on every wire, anonymized or not", async (t) => {
  const result = await query("VU", 30_000);
  for (const rows of [result, anonymized(result)]) {
    const wires: Wires = {};
    const first = await hop(wires, "query to next", framesOf("VU", result));
    assert.equal((await read(first)).batches.length, result.batches.length);
    const last = await hop(wires, "last to sidecar", framesOf("VU", rows));
    await answers(wires, overBus(wires, "bus", last));
    assertSmall(wires, 9);
    t.diagnostic(JSON.stringify(wires));
  }
});

test("30,000 rows by dataThroughTtp take at most 300 kB on every wire, from one provider or two", async (t) => {
  const [vu, uva] = [await query("VU", 15_000), await query("UVA", 15_000)];
  for (const providers of [{ VU: await query("VU", 30_000) }, { VU: vu, UVA: uva }]) {
    const wires: Wires = {};
    const inputs: Frame[][] = [];
    for (const [name, result] of Object.entries(providers)) {
      const rows = anonymized(result);
      const sent = await hop(wires, `${name}: last to sidecar`, framesOf(name, rows));
      const delivered = overBus(wires, `${name}: bus`, sent);
      inputs.push(await hop(wires, `${name}: third party's sidecar to first`, delivered));
    }
    const joined = await join30k(inputs);
    const output = await hop(wires, "third party: last to sidecar", framesOf("SURF", joined));
    await answers(wires, overBus(wires, "third party: bus", output));
    assertSmall(wires, 8 + 3 * Object.keys(providers).length);
    t.diagnostic(JSON.stringify(wires));
  }
});
