/** Keys of Arrow metadata that microservices tell each other by. */

/** Of a field: the table's column that its values are, unchanged. Written by sql-query where SQLite knows it. */
export const SOURCE_TABLE = "dynamos.sourceTable";
export const SOURCE_COLUMN = "dynamos.sourceColumn";

/** Of a field, `true`: it holds nulls only and its type is a guess, so any other type may take its place. */
export const TYPE_UNKNOWN = "dynamos.typeUnknown";

/** Of a field: the method that its values were anonymized by. */
export const ANONYMIZED = "dynamos.anonymized";

/**
 * Of a schema, `none` when the statement provably reads no sensitive column: its compiled program does not
 * (docs/decisions/0006 and 0007).
 */
export const SENSITIVE_COLUMNS_READ = "dynamos.sensitiveColumnsRead";

/** Of a schema: the stream has states of groups instead of rows; the fields of those rows (JSON), see `lib/algorithms/partial-states.ts`. */
export const PARTIAL_STATES = "dynamos.partialStates";

/** Of a schema: the column with the names of the data providers. */
export const PROVIDER_COLUMN = "dynamos.providerColumn";

/** Of a schema: the group columns of an algorithm's result (a JSON array), and the algorithms (separated by commas). */
export const GROUP_COLUMNS = "dynamos.groupColumns";
export const ALGORITHM = "dynamos.algorithm";
