//! Recall as a whole against slow literal transcriptions: of the recipe, and of "read everything anew".

mod naive;
mod outlined;
mod refresh;
mod world;
