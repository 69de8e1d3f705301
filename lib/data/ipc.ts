/**
 * The Arrow IPC streaming format in pieces, so that schema and batches can travel as separate frames: the pieces, one
 * after another and followed by {@link END_OF_STREAM}, are a stream for any Arrow reader.
 * https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
 */
import {
  DataType,
  Field,
  makeData,
  RecordBatch,
  RecordBatchStreamWriter,
  Schema,
  Struct,
  Vector,
  type Data,
} from "apache-arrow";
import type { RecordBatch as BatchHeader } from "apache-arrow/ipc/metadata/message";
import { VectorLoader } from "apache-arrow/visitor/vectorloader";
import { AppError } from "../errors.ts";
import { fieldsOf } from "./field-types.ts";
import { checkBatch, checkedMessages, onlyMessage, type EncapsulatedMessage } from "./ipc-check.ts";

/** What ends a stream: a continuation marker and a length of 0. */
export const END_OF_STREAM: Uint8Array = Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0);

/** The schema's message. The bytes are shared with whoever asks for the same schema's. */
export function encodeSchema(asked: Schema): Uint8Array {
  const original = ORIGINALS.get(asked);
  const schema = original !== undefined && isSame(asked, original) ? original : asked;
  const known = ENCODED.get(schema);
  if (known !== undefined) return known;
  const key = keyOf(schema);
  let bytes = ENCODED_BY_KEY.get(key);
  if (bytes === undefined) {
    bytes = newlyEncoded(schema);
    if (bytes.byteLength <= MAX_REMEMBERED_BYTES) remember(ENCODED_BY_KEY, key, bytes);
  }
  ENCODED.set(schema, bytes);
  return bytes;
}

function newlyEncoded(schema: Schema): Uint8Array {
  const pieces = new PieceWriter("schema");
  pieces.reset(undefined, schema);
  return pieces.joined();
}

/** All that a schema's message says: whoever makes the same columns again and again makes another schema each time. */
function keyOf({ fields, metadata, metadataVersion }: Schema): string {
  const columns = fields.map((field) => [
    field.name,
    typeKey(field.type as DataType),
    field.nullable,
    [...field.metadata],
  ]);
  return JSON.stringify([columns, [...metadata], metadataVersion]);
}

function typeKey(type: DataType): unknown {
  if (!DataType.isDictionary(type))
    return [type.typeId, type, type.children?.map((child) => [child.name, typeKey(child.type as DataType)])];
  return [type.id, type.isOrdered, typeKey(type.indices), typeKey(type.dictionary as DataType)];
}

/**
 * Schemas that were read or written before: of many small results the same few, and each of them costs as much to read as the rows
 * behind it. A handler may change what it gets, so each decoder gives out a copy of its own, and one that is still the same is
 * written as its original was.
 */
const ENCODED = new WeakMap<Schema, Uint8Array>();
const ENCODED_BY_KEY = new Map<string, Uint8Array>();
const DECODED = new Map<string, Schema>();
const ORIGINALS = new WeakMap<Schema, Schema>();
const MAX_REMEMBERED = 64;
const MAX_REMEMBERED_BYTES = 16 * 1024;

/** The bytes that batches were read from, as long as the batches are there. */
const READ_FROM = new WeakMap<RecordBatch, Uint8Array>();

/**
 * The messages of a batch that nobody has changed since {@link BatchDecoder.decode} read it: the very bytes that it was read from. Of any
 * other batch as {@link encodeBatch}.
 */
export function bytesOfUnchanged(batch: RecordBatch): Uint8Array {
  return READ_FROM.get(batch) ?? encodeBatch(batch);
}

/** The messages of one batch: its dictionaries, where columns have them, and the batch itself. */
export function encodeBatch(batch: RecordBatch): Uint8Array {
  const pieces = new PieceWriter("batch");
  pieces.write(batch);
  return pieces.joined();
}

/** Reads batches that {@link encodeBatch}, or another Arrow library, wrote one by one. No row is kept between calls. */
export class BatchDecoder {
  readonly schema: Schema;

  /** Fails with `data_invalid` unless the bytes are one schema message; `type_mismatch` for a column type we cannot read. */
  constructor(schemaBytes: Uint8Array) {
    this.schema = decodeSchema(schemaBytes);
    const names = fieldsOf(this.schema).map((field) => field.name);
    if (new Set(names).size < names.length) {
      throw new AppError("data_invalid", `Two columns have the same name. The columns are: ${names.join(", ")}.`);
    }
  }

  /**
   * The batch in these bytes; its columns are views of them. Fails with `data_invalid` unless they are exactly one batch
   * of this schema (after its dictionaries) whose buffers lie inside them.
   */
  decode(batchBytes: Uint8Array): RecordBatch {
    return orInvalid("batch", () => {
      const batch = loadBatch(checkedMessages(batchBytes, this.schema), this.schema);
      checkBatch(batch);
      READ_FROM.set(batch, batchBytes);
      return batch;
    });
  }
}

/**
 * What apache-arrow's reader does with these messages behind their schema's, without reading the schema again for each batch: of small
 * results that was most of the work.
 */
function loadBatch(messages: readonly EncapsulatedMessage[], schema: Schema): RecordBatch {
  const dictionaries = new Map<number, Vector>();
  const load = (header: BatchHeader, body: Uint8Array, types: readonly (Field | DataType)[]): Data[] => {
    const { metadataVersion } = schema;
    const { nodes, buffers, variadicBufferCounts } = header;
    const loader = new VectorLoader(aligned(body), nodes, buffers, dictionaries, metadataVersion, variadicBufferCounts);
    return loader.visitMany([...types]) as Data[];
  };
  for (const { message, body } of messages) {
    if (message.isDictionaryBatch()) {
      const { id, isDelta, data } = message.header();
      const vector = new Vector(load(data, body, [schema.dictionaries.get(id) as DataType]));
      const known = dictionaries.get(id);
      dictionaries.set(id, (isDelta && known !== undefined ? known.concat(vector) : vector).memoize());
    } else {
      const header = message.header() as BatchHeader;
      const children = load(header, body, schema.fields);
      return new RecordBatch(schema, makeData({ type: new Struct(schema.fields), length: header.length, children }));
    }
  }
  throw new Error("there is no batch");
}

/** Columns are views of numbers, which must begin where the machine can read them. Not by `slice`, which copies nothing of a Buffer. */
function aligned(body: Uint8Array): Uint8Array {
  return body.byteOffset % 8 === 0
    ? new Uint8Array(body.buffer, body.byteOffset, body.byteLength)
    : new Uint8Array(body);
}

/** Collects what apache-arrow's writer writes, without its queue (which has no limit and may drop repeated buffers). */
class PieceWriter extends RecordBatchStreamWriter {
  readonly #chunks: Uint8Array[] = [];
  readonly #part: "schema" | "batch";

  constructor(part: "schema" | "batch") {
    super({ autoDestroy: false });
    this.#part = part;
  }

  joined(): Uint8Array {
    const joined = Buffer.concat(this.#chunks);
    return new Uint8Array(joined.buffer, joined.byteOffset, joined.byteLength);
  }

  protected override _writeSchema(schema: Schema): this {
    return this.#part === "schema" ? super._writeSchema(schema) : this;
  }

  protected override _write(chunk: ArrayBufferView): this {
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    return this;
  }
}

function decodeSchema(bytes: Uint8Array): Schema {
  if (bytes.byteLength > MAX_REMEMBERED_BYTES) return readSchema(bytes);
  const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  const known = DECODED.get(key);
  if (known !== undefined) return copyOf(known);
  const schema = readSchema(bytes);
  remember(DECODED, key, schema);
  return copyOf(schema);
}

function remember<Value>(known: Map<string, Value>, key: string, value: Value): void {
  if (known.size >= MAX_REMEMBERED) known.clear();
  known.set(key, value);
}

function copyOf(schema: Schema): Schema {
  const fields = schema.fields.map(
    ({ name, type, nullable, metadata }) => new Field(name, type, nullable, new Map(metadata)),
  );
  // With the dictionaries that were read: made anew from the fields, they would throw for nested columns without their children.
  const { dictionaries, metadata, metadataVersion } = schema;
  const copy = new Schema(fields, new Map(metadata), new Map(dictionaries), metadataVersion);
  ORIGINALS.set(copy, schema);
  return copy;
}

function isSame(schema: Schema, original: Schema): boolean {
  return (
    schema.fields.length === original.fields.length &&
    schema.fields.every((field, index) => isSameField(field, original.fields[index] as Field)) &&
    isSameMap(schema.metadata, original.metadata)
  );
}

function isSameField(field: Field, original: Field): boolean {
  return (
    field.name === original.name &&
    field.type === original.type &&
    field.nullable === original.nullable &&
    isSameMap(field.metadata, original.metadata)
  );
}

function isSameMap(map: ReadonlyMap<string, string>, original: ReadonlyMap<string, string>): boolean {
  return map.size === original.size && [...original].every(([key, value]) => map.get(key) === value);
}

function readSchema(bytes: Uint8Array): Schema {
  return orInvalid("schema", () => {
    const message = onlyMessage(bytes);
    if (!message.isSchema()) throw new Error("the message is not a schema");
    const schema: Schema = message.header();
    return schema;
  });
}

function orInvalid<T>(what: "schema" | "batch", work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError("data_invalid", `These bytes are not an Arrow ${what}: ${reason}`, { cause: error });
  }
}
