/**
 * Counts the bytes of rows on every wire that they cross, through the parts that put them there: each hop in a pod over a real
 * gRPC connection, each message of the bus, each HTTP answer. The thesis' query over the sample data.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
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
import { FrameWriter } from "../../lib/rpc/frames.ts";
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
import { temporaryFolder } from "./temporary-folder.ts";

const SQL =
  "SELECT p.Unieknr, p.Geslacht, p.Gebdat, s.Aanst_22, s.Functcat, s.Salschal FROM Personen p JOIN Aanstellingen s";

const WAGE_GAP = JSON.parse(
  await readFile(join(packageRoot, "configuration", "datasets", "wageGap.json"), "utf8"),
) as DataSet;

interface Rows {
  readonly schema: Schema;
  readonly batches: readonly RecordBatch[];
}

/** The wires, and the bytes that crossed them. */
export type Wires = Record<string, number>;

/** The sample's rows as the agent's loader stores them. */
async function worldOf(steward: SampleStewardName, folder: string): Promise<string> {
  const path = join(folder, `${steward}.sqlite`);
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
  const folder = await temporaryFolder();
  const processes = new QueryProcesses({ limits: DEFAULT_QUERY_LIMITS, temporaryFolder: folder, atOnce: 1 });
  const world = { path: await worldOf(steward, folder), dataSets: [WAGE_GAP] };
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

async function joined(inputs: readonly (readonly Frame[])[]): Promise<Rows> {
  const streams = await Promise.all(
    inputs.map(async (frames): Promise<ProviderStream> => {
      const { schema, batches } = await read(frames);
      return { provider: frames[0]?.provider ?? "", schema, batches: iterate(batches) };
    }),
  );
  const output = joinStreams(streams, { signal: new AbortController().signal });
  const batches: RecordBatch[] = [];
  for await (const batch of output.batches) batches.push(batch);
  return { schema: output.schema, batches };
}

async function answers(wires: Wires, frames: readonly Frame[], rows: number): Promise<void> {
  const heading = { requestId: "r", jobName: "j", archetype: "computeToData", provider: "VU" };
  const texts = new Set<string>();
  for (const format of ["json", "arrow", "csv"] as const) {
    for (const accepted of ["br", "gzip"] as const) {
      const pieces = answerPieces(format, iterate(frames), heading);
      const body = encodedBody(Readable.from(pieces, { objectMode: false }), chooseEncoding(accepted));
      const parts: Buffer[] = [];
      for await (const part of body as AsyncIterable<Buffer>) parts.push(part);
      const whole = Buffer.concat(parts);
      wires[`HTTP, ${format}, ${accepted}`] = whole.byteLength;
      if (format === "json") texts.add((accepted === "br" ? brotliDecompressSync : gunzipSync)(whole).toString());
    }
  }
  let framesBytes = 0;
  for await (const piece of answerPieces("frames", iterate(frames), heading)) framesBytes += piece.length;
  wires["HTTP, frames (to the front door)"] = framesBytes;
  const [text = "", ...others] = texts;
  assert.equal(others.length, 0);
  assert.equal((JSON.parse(text) as { rows: unknown[] }).rows.length, rows);
}

/** Rows of one steward by computeToData: as they are, and anonymized. */
export async function wiresByComputeToData(rows: number): Promise<readonly Wires[]> {
  const result = await query("VU", rows);
  const all: Wires[] = [];
  for (const sent of [result, anonymized(result)]) {
    const wires: Wires = {};
    const first = await hop(wires, "query to next", framesOf("VU", result));
    assert.equal((await read(first)).batches.length, result.batches.length);
    const last = await hop(wires, "last to sidecar", framesOf("VU", sent));
    await answers(wires, overBus(wires, "bus", last), rows);
    all.push(wires);
  }
  return all;
}

/** As many rows by dataThroughTtp, anonymized: of one provider, and of two, who give half of them each. */
export async function wiresByDataThroughTtp(rows: number): Promise<readonly Wires[]> {
  const [vu, uva] = [await query("VU", rows / 2), await query("UVA", rows / 2)];
  const all: Wires[] = [];
  for (const providers of [{ VU: await query("VU", rows) }, { VU: vu, UVA: uva }]) {
    const wires: Wires = {};
    const inputs: Frame[][] = [];
    for (const [name, result] of Object.entries(providers)) {
      const sent = await hop(wires, `${name}: last to sidecar`, framesOf(name, anonymized(result)));
      const delivered = overBus(wires, `${name}: bus`, sent);
      inputs.push(await hop(wires, `${name}: third party's sidecar to first`, delivered));
    }
    const output = await hop(wires, "third party: last to sidecar", framesOf("SURF", await joined(inputs)));
    await answers(wires, overBus(wires, "third party: bus", output), rows);
    all.push(wires);
  }
  return all;
}
