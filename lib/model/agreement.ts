/** Agreements: what a data steward allows to whom (thesis, chapter 3). */
import { Type, type Static } from "@sinclair/typebox";
import { ChainLifetime } from "./chain-lifetime.ts";
import { DocumentName, SqlName, StewardName } from "./names.ts";

const nameList = Type.Array(DocumentName, { uniqueItems: true });

/** What a relation grants on one data set, where it is less than all of it. */
export const DataSetGrant = Type.Object(
  {
    /** Tables and their columns; a table that is not named is not granted, `"*"` grants all columns. */
    tables: Type.Record(SqlName, Type.Union([Type.Literal("*"), Type.Array(SqlName, { minItems: 1 })])),
  },
  { additionalProperties: false },
);

/** What a steward allows one user. */
export const Relation = Type.Object(
  {
    ID: Type.String(),
    requestTypes: nameList,
    dataSets: nameList,
    allowedArchetypes: nameList,
    allowedComputeProviders: Type.Array(StewardName),
    /** New. Per data set, the tables and columns granted. Absent: all. */
    columns: Type.Optional(Type.Record(DocumentName, DataSetGrant)),
    /** New. Operations allowed (names of algorithms). Absent: all algorithms. */
    operations: Type.Optional(Type.Array(Type.String())),
    /** New. Whether rows may leave without an algorithm over them. Default false. */
    rawRows: Type.Optional(Type.Boolean()),
    /** New. Groups of fewer members than this are withheld. Default 1: none. */
    minimumGroupSize: Type.Optional(Type.Integer({ minimum: 1 })),
    /** New. The relation counts from and until these instants (RFC 3339). */
    validFrom: Type.Optional(Type.String()),
    validUntil: Type.Optional(Type.String()),
    /** New. Chains that this user's requests run in at this steward. Absent: what the agreement says. */
    chainLifetime: Type.Optional(ChainLifetime),
  },
  { additionalProperties: false },
);
export type Relation = Static<typeof Relation>;

/** One steward's agreement. What counts is the intersection of the relation's lists and the steward's own. */
export const Agreement = Type.Object(
  {
    name: StewardName,
    relations: Type.Record(Type.String({ minLength: 1 }), Relation),
    computeProviders: Type.Array(StewardName),
    archetypes: nameList,
    /** New. Chains that requests run in at this steward. Absent: as the steward's agent is configured, else as the request type says. */
    chainLifetime: Type.Optional(ChainLifetime),
  },
  { additionalProperties: false },
);
export type Agreement = Static<typeof Agreement>;
