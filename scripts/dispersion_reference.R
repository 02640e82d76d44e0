# Dispersion effects as published with the HLMM, by R's MASS::rlm: the reference of our `published`
# method. Debian: apt-get install r-base-core r-cran-mass.
# Usage: Rscript scripts/dispersion_reference.R IN.tsv OUT.tsv
# IN has columns case, add, add_se, var, var_se; OUT also slope, dispersion, dispersion_se.
suppressPackageStartupMessages(library(MASS))
files <- commandArgs(trailingOnly = TRUE)
rows <- read.delim(files[1], colClasses = c(case = "character"))
one <- function(x) {
  # rlm stops by default once residuals change by less than 1e-4 of themselves.
  r <- unname(coef(rlm(var ~ add - 1, data = x, acc = 1e-10, maxit = 200)))
  m <- mean(x$add_se^2)
  s <- var(x$add)
  slope <- r * (1 + m / (s - m))
  x$slope <- slope
  x$dispersion <- x$var - slope * x$add
  x$dispersion_se <- sqrt(x$var_se^2 + slope^2 * x$add_se^2)
  x
}
out <- do.call(rbind, lapply(split(rows, rows$case), one))
numbers <- sapply(out, is.numeric)
out[numbers] <- lapply(out[numbers], formatC, digits = 12, format = "g")
write.table(out, files[2], sep = "\t", quote = FALSE, row.names = FALSE)
