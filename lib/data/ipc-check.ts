/**
 * Checks on Arrow IPC bytes from elsewhere. apache-arrow believes every length it reads: a wrong one would yield rows that
 * are not there, or an allocation of gigabytes. So headers are checked before it loads them, and buffers after.
 */
import { DataType, Message, type Data, type Dictionary, type RecordBatch, type Schema } from "apache-arrow";
import { AppError } from "../errors.ts";

/** Rows that one batch may have; also bounds batches without columns. */
const MAX_ROWS = 2 ** 31 - 1;

/** One encapsulated message: its header, read, and its body. */
export interface EncapsulatedMessage {
  readonly message: Message;
  readonly body: Uint8Array;
}

/** The encapsulated messages in these bytes, checked: dictionaries of this schema, then one batch of it. Throws if they are not. */
export function checkedMessages(bytes: Uint8Array, schema: Schema): readonly EncapsulatedMessage[] {
  const all = [...messages(bytes)];
  let hasBatch = false;
  for (const { message } of all) {
    if (hasBatch) throw new Error("a message follows the batch");
    if (message.isRecordBatch()) {
      checkHeader(
        message.header(),
        message.bodyLength,
        schema.fields.map((field) => field.type as DataType),
      );
      hasBatch = true;
    } else if (message.isDictionaryBatch()) {
      const header = message.header();
      const type = schema.dictionaries.get(header.id);
      if (type === undefined) throw new Error(`dictionary ${header.id} is of no column`);
      checkHeader(header.data, message.bodyLength, [type]);
    } else {
      throw new Error("a message is neither a dictionary nor a batch");
    }
  }
  if (!hasBatch) throw new Error("there is no batch");
  return all;
}

/** The one message that the bytes hold. Throws when there are none, or more. */
export function onlyMessage(bytes: Uint8Array): Message {
  const [first, ...more] = messages(bytes);
  if (first === undefined || more.length > 0) throw new Error("there is not exactly one message");
  return first.message;
}

/** Checks that every value of the loaded batch lies inside its buffers. Throws if not. */
export function checkBatch(batch: RecordBatch): void {
  for (const [index, column] of batch.data.children.entries()) {
    checkColumn(column, batch.schema.fields[index]?.name ?? "");
  }
}

function* messages(bytes: Uint8Array): Generator<EncapsulatedMessage> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 0;
  while (position < bytes.byteLength) {
    if (view.getInt32(position, true) !== -1) throw new Error("a message lacks its continuation marker");
    const size = view.getInt32(position + 4, true);
    const end = position + 8 + size;
    if (size <= 0 || end > bytes.byteLength) throw new Error("a message is cut off");
    const metadata = bytes.subarray(position + 8, end);
    checkVectors(metadata);
    const message = Message.decode(metadata);
    if (message.bodyLength < 0 || end + message.bodyLength > bytes.byteLength) throw new Error("a body is cut off");
    position = end + message.bodyLength;
    yield { message, body: bytes.subarray(end, position) };
  }
}

interface BatchHeader {
  readonly length: number;
  readonly nodes: readonly { readonly length: number; readonly nullCount: number }[];
  readonly buffers: readonly { readonly offset: number; readonly length: number }[];
  readonly compression: unknown;
}

function checkHeader(header: BatchHeader, bodyLength: number, types: readonly DataType[]): void {
  if (header.compression !== null) throw new Error("compressed bodies are not supported");
  if (header.length < 0 || header.length > MAX_ROWS) throw new Error(`${header.length} rows`);
  const bufferCount = types.reduce((sum, type) => sum + (isPlainText(type) ? 3 : 2), 0);
  if (header.nodes.length !== types.length || header.buffers.length !== bufferCount) {
    throw new Error("its columns are not those of the schema");
  }
  for (const { length, nullCount } of header.nodes) {
    if (length !== header.length) throw new Error(`a column of ${length} rows in a batch of ${header.length}`);
    if (nullCount < 0 || nullCount > length) throw new Error(`${nullCount} nulls in ${length} rows`);
  }
  for (const { offset, length } of header.buffers) {
    if (offset < 0 || length < 0 || offset + length > bodyLength) throw new Error("a buffer lies outside the body");
  }
}

function checkColumn(column: Data, name: string): void {
  const { length, nullCount, nullBitmap } = column;
  if (nullCount > 0) require(nullBitmap.byteLength * 8 >= length, name);
  if (DataType.isDictionary(column.type)) {
    require(entriesOf(column) >= length, name);
    checkDictionary(column, name);
  } else if (isPlainText(column.type)) {
    checkOffsets(column, name);
  } else {
    const entries = DataType.isBool(column.type) ? Math.ceil(length / 8) : length * column.stride;
    require(entriesOf(column) >= entries, name);
  }
}

function checkOffsets(column: Data, name: string): void {
  const offsets = column.valueOffsets as Int32Array | BigInt64Array;
  // Arrow allows a column of no rows to leave out its single offset.
  if (column.length === 0) return;
  require(offsets.length > column.length, name);
  let previous: number | bigint = 0;
  for (let index = 0; index <= column.length; index++) {
    const offset: number | bigint = offsets[index] ?? -1;
    require(offset >= previous, name);
    previous = offset;
  }
  require(previous <= entriesOf(column), name);
}

function checkDictionary(column: Data, name: string): void {
  const dictionary = column.dictionary;
  const size = dictionary?.length ?? 0;
  const type = (column.type as Dictionary).dictionary as DataType;
  for (const chunk of (dictionary?.data ?? []) as readonly Data[]) checkColumn(chunk.clone(type), name);
  const indices = column.values as ArrayLike<number | bigint>;
  // Read once: it is computed at every access.
  const { length, nullCount, nullBitmap } = column;
  for (let row = 0; row < length; row++) {
    const index = indices[row] ?? -1;
    if (index >= 0 && index < size) continue;
    require(nullCount > 0 && ((nullBitmap[row >> 3] ?? 0) & (1 << (row & 7))) === 0, name);
  }
}

function entriesOf(column: Data): number {
  return (column.values as ArrayLike<unknown>).length;
}

function isPlainText(type: DataType): boolean {
  return DataType.isUtf8(type) || DataType.isLargeUtf8(type);
}

function require(isRight: boolean, name: string): void {
  if (!isRight) throw new Error(`column "${name}" refers beyond its buffers`);
}

/**
 * Checks the vectors' lengths in a message's flatbuffer (Message.fbs of the Arrow format), because a wrong one makes the
 * generated code loop billions of times. `DataView` throws for what lies outside.
 */
function checkVectors(metadata: Uint8Array): void {
  const view = new DataView(metadata.buffer, metadata.byteOffset, metadata.byteLength);
  const message = view.getUint32(0, true);
  checkVector(view, message, 4, 4);
  const kind = view.getUint8(requiredField(view, message, 1));
  let header = follow(view, requiredField(view, message, 2));
  if (kind === HEADER_SCHEMA) {
    checkSchema(view, header);
    return;
  }
  if (kind === HEADER_DICTIONARY) header = follow(view, requiredField(view, header, 1));
  checkVector(view, header, 1, 16);
  checkVector(view, header, 2, 16);
  checkVector(view, header, 4, 8);
}

const HEADER_SCHEMA = 1;
const HEADER_DICTIONARY = 2;

function checkSchema(view: DataView, schema: number): void {
  for (const list of [2, 3]) checkVector(view, schema, list, 4);
  const { start, count } = checkVector(view, schema, 1, 4);
  for (let index = 0; index < count; index++) {
    const field = follow(view, start + 4 * index);
    checkVector(view, field, 6, 4);
    if (checkVector(view, field, 5, 4).count > 0) {
      throw new AppError("type_mismatch", `Column ${index + 1} is nested, which is not supported. Send flat columns.`);
    }
  }
}

/** Position of a table's field, or undefined where it is left out. */
function fieldAt(view: DataView, table: number, field: number): number | undefined {
  const vtable = table - view.getInt32(table, true);
  const slot = 4 + 2 * field;
  if (slot >= view.getUint16(vtable, true)) return undefined;
  const offset = view.getUint16(vtable + slot, true);
  return offset === 0 ? undefined : table + offset;
}

function requiredField(view: DataView, table: number, field: number): number {
  const position = fieldAt(view, table, field);
  if (position === undefined) throw new Error("a message lacks its header");
  return position;
}

function follow(view: DataView, position: number): number {
  return position + view.getUint32(position, true);
}

/** Where a table's list begins, and how many entries it has (0 where it is left out). */
function checkVector(
  view: DataView,
  table: number,
  field: number,
  bytesPerEntry: number,
): { start: number; count: number } {
  const position = fieldAt(view, table, field);
  if (position === undefined) return { start: 0, count: 0 };
  const vector = follow(view, position);
  const count = view.getUint32(vector, true);
  if (vector + 4 + count * bytesPerEntry > view.byteLength) throw new Error("a list in a message's header is cut off");
  return { start: vector + 4, count };
}
