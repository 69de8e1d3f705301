/** Archetypes of data exchange (thesis, section 3.3). */
import { Type, type Static } from "@sinclair/typebox";
import { DocumentName } from "./names.ts";

/** Who computes, and who receives. Lower weight is preferred. */
export const Archetype = Type.Object(
  {
    name: DocumentName,
    /** `dataProvider`: each steward computes at home (computeToData). `other`: a third party does (dataThroughTtp). */
    computeProvider: Type.Union([Type.Literal("dataProvider"), Type.Literal("other")]),
    resultRecipient: Type.Literal("requestor"),
    weight: Type.Integer(),
  },
  { additionalProperties: false },
);
export type Archetype = Static<typeof Archetype>;

/** What a party does in a plan: `all` steps, those of a `dataProvider`, or those of a `computeProvider`. */
export const Role = Type.Union([Type.Literal("all"), Type.Literal("dataProvider"), Type.Literal("computeProvider")]);
export type Role = Static<typeof Role>;
