/** One schema for the streams of several data providers: their columns by name, with types that take all values. Pure. */
import { DataType, Field, Schema, util, Utf8 } from "apache-arrow";
import { isSameType, typeInWords, widenTypes } from "../../lib/algorithms/widening.ts";
import { PROVIDER_COLUMN, TYPE_UNKNOWN } from "../../lib/data/field-metadata.ts";
import { isTextDictionary, textDictionary } from "../../lib/data/dictionary-column.ts";
import { fieldsOf, toArrowSchema, type FieldSpec, type FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";

/** A provider's stream, as far as its schema goes. */
export interface ProviderSchema {
  readonly provider: string;
  readonly schema: Schema;
}

/** The joined schema. */
export interface JoinedSchema {
  /** First the provider's name, then the columns in the order of the first provider by name. */
  readonly schema: Schema;
  readonly fields: readonly FieldSpec[];
  /** Per provider, the place of each joined column (without the first) in its own batches, and the type that it has there. */
  readonly sources: ReadonlyMap<string, readonly SourceColumn[]>;
}

/** A joined column at one provider. */
export interface SourceColumn {
  readonly place: number;
  readonly from: FieldType;
  readonly to: FieldType;
  /** Whether its buffers can be handed on as they are: they are laid out as the joined column's. */
  readonly isUnchanged: boolean;
}

/** The column with the provider's name, unless the query has one of this name: then `provider_1`, and so on. */
export const PROVIDER = "provider";

/**
 * Joins the schemas. Fails with `column_unknown` (and the party) for a column that a provider lacks, with `type_mismatch`
 * for types that do not widen, with `invalid_argument` when there is no provider or one twice.
 */
export function joinSchemas(inputs: readonly ProviderSchema[]): JoinedSchema {
  const sorted = [...inputs].sort((a, b) => (a.provider < b.provider ? -1 : 1));
  const [first] = sorted;
  if (first === undefined) throw new AppError("invalid_argument", "There are no streams to join.");
  if (new Set(sorted.map(({ provider }) => provider)).size < sorted.length) {
    throw new AppError("invalid_argument", "Two streams to join have the same provider.");
  }
  for (const input of sorted) checkColumns(first, input);
  const columns = first.schema.fields.map((field, index) => joinColumn(field, index + 1, sorted));
  const providerColumn = freeName(first.schema.fields.map(({ name }) => name));
  const schema = new Schema(
    [new Field(providerColumn, textDictionary(0), false), ...columns],
    new Map([...first.schema.metadata, [PROVIDER_COLUMN, providerColumn]]),
  );
  const fields = fieldsOf(schema);
  const sources = new Map(sorted.map((input) => [input.provider, sourcesOf(input, schema.fields.slice(1))]));
  return { schema, fields, sources };
}

function checkColumns(first: ProviderSchema, input: ProviderSchema): void {
  requireColumns(first, input);
  requireColumns(input, first);
}

/** Each column of `from` is there in `input`, too. */
function requireColumns(from: ProviderSchema, input: ProviderSchema): void {
  const known = input.schema.fields.map(({ name }) => name);
  for (const { name } of from.schema.fields) {
    if (known.includes(name)) continue;
    throw new AppError(
      "column_unknown",
      `The result of ${input.provider} has no column "${name}", which ${from.provider} has, so they cannot be joined. It has: ` +
        `${known.join(", ")}. Name the columns in the query instead of *.`,
      { party: input.provider, details: { column: name, known } },
    );
  }
}

/** @param place in the joined schema; it tells its dictionaries apart. */
function joinColumn(field: Field, place: number, inputs: readonly ProviderSchema[]): Field {
  let joined: FieldSpec | undefined;
  for (const { provider, schema } of inputs) {
    const own = fieldNamed(schema, field.name);
    const [spec] = fieldsOf(new Schema([own]));
    if (spec === undefined || own.metadata.get(TYPE_UNKNOWN) === "true") continue;
    joined = joined === undefined ? spec : widened(joined, spec, provider);
  }
  const hasDictionary = inputs.every(({ schema }) => isTextDictionary(fieldNamed(schema, field.name).type as DataType));
  if (joined === undefined) return hasDictionary ? field.clone({ type: textDictionary(place) }) : plainField(field);
  const nullable = inputs.some(({ schema }) => fieldNamed(schema, field.name).nullable);
  const [typed] = toArrowSchema([{ ...joined, nullable }]).fields;
  const metadata = [...field.metadata].filter(([key]) => key !== TYPE_UNKNOWN);
  const type: DataType =
    hasDictionary && joined.type.kind === "text" ? textDictionary(place) : ((typed as Field).type as DataType);
  return new Field(field.name, type, nullable, new Map(metadata));
}

/** Nothing but nulls, whose type is a guess. */
function plainField(field: Field): Field {
  return DataType.isDictionary(field.type) ? field.clone({ type: new Utf8() }) : field;
}

function widened(joined: FieldSpec, own: FieldSpec, provider: string): FieldSpec {
  const type = widenTypes(joined.type, own.type);
  if (type !== undefined) return { ...joined, type };
  throw new AppError(
    "type_mismatch",
    `The column "${own.name}" is ${typeInWords(own.type)} at ${provider}, but ${typeInWords(joined.type)} elsewhere, and no type ` +
      "takes both. CAST it to one type in the query.",
    { party: provider, details: { column: own.name, types: [typeInWords(joined.type), typeInWords(own.type)] } },
  );
}

function sourcesOf({ schema }: ProviderSchema, columns: readonly Field[]): readonly SourceColumn[] {
  return columns.map((column) => {
    const place = schema.fields.findIndex(({ name }) => name === column.name);
    // A type that is only a guess still is the layout of its nulls. They convert to any type, and nothing else can come.
    const [from, to] = [typeOf(schema.fields[place] as Field), typeOf(column)];
    return {
      place,
      from,
      to,
      isUnchanged: isSameType(from, to) && hasSameLayout(schema.fields[place] as Field, column),
    };
  });
}

/** One kind has several layouts in Arrow, such as integers of 32 and 64 bits. Precision and scale are not compared. */
function hasSameLayout(own: Field, joined: Field): boolean {
  if (isTextDictionary(own.type as DataType)) return isTextDictionary(joined.type as DataType);
  return util.compareTypes(own.type as DataType, joined.type as DataType);
}

function typeOf(field: Field): FieldType {
  const [spec] = fieldsOf(new Schema([field]));
  return (spec as FieldSpec).type;
}

function fieldNamed(schema: Schema, name: string): Field {
  return schema.fields.find((field) => field.name === name) as Field;
}

function freeName(taken: readonly string[]): string {
  const lower = new Set(taken.map((name) => name.toLowerCase()));
  let name = PROVIDER;
  for (let number = 1; lower.has(name); number++) name = `${PROVIDER}_${number}`;
  return name;
}
