/* The header needs nothing before it. */
#include <holstein.h>

int header_alone(void);
int header_alone(void)
{
    return hol_version_number() == HOL_VERSION_NUMBER;
}
