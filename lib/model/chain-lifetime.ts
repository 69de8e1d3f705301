/** How long a chain lives: for one request, or for many (thesis, 3.5.2: persistent microservices). */
import { Type, type Static } from "@sinclair/typebox";

/** `perRequest`: a chain of its own for each attempt. `persistent`: a long-running chain that a queue feeds. */
export const ChainLifetime = Type.Union([Type.Literal("perRequest"), Type.Literal("persistent")]);
export type ChainLifetime = Static<typeof ChainLifetime>;
